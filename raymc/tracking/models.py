"""Bundles as MLflow models: logged with a run, registered under a name, found by an alias.

Everything goes through a client of its own: `mlflow.pyfunc.log_model` would change the process's
tracking address and active run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import raymc
from raymc.addresses import with_password, without_password
from raymc.data.shards import Modality
from raymc.errors import BundleError, ResourceError
from raymc.tracking.connect import answering, open_client, unusable
from raymc.tracking.records import reason
from raymc.training.bundle import DESCRIPTION, Bundle, load_bundle

if TYPE_CHECKING:
    import mlflow.entities
    import mlflow.models
    from mlflow.entities.model_registry import ModelVersion


MODEL_NAME = "bundle"
LOADER = "raymc.tracking.pyfunc_model"
WEIGHTS_TAG = "raymc.weights"  # digest of a version's weights
BUNDLE_TAG = "raymc.bundle"  # digest of all of a version's bundle; 0.1.0 wrote none
_VERSIONS_TAG = "mlflow.modelVersions"  # MLflow's page of a model reads its versions from here
_DATASET, _DIGEST, _SPLIT, _METRICS = (
    f"raymc.test_{part}" for part in ("dataset", "digest", "split", "metrics")
)


def log_bundle(folder: Path, run_id: str, *, uri: str, register_as: str, alias: str) -> str:
    """Log a bundle with a run; if `register_as` is not empty, register it and move the alias to it.

    What an interrupted call has done is not done again, and a model that it left half written is
    deleted.

    Returns:
        The address that `mlflow.pyfunc.load_model` takes.

    Raises:
        BundleError: `folder` holds no readable bundle.
        ResourceError: MLflow is unreachable or refuses; the bundle is not changed.
    """
    bundle = load_bundle(folder)
    client = open_client(uri, create=False)
    try:
        model = _logged(client, run_id, bundle) or _log(client, folder, run_id, bundle)
        if not register_as:
            return model.model_uri
        version = _register(client, model, register_as, _tags(bundle))
        client.set_registered_model_alias(register_as, alias, version)
    except Exception as error:  # no error of a store may hide that training succeeded
        raise ResourceError(
            f"MLflow at {without_password(uri)} did not accept the model ({reason(error)}): the "
            f"bundle {folder} is complete and works without MLflow; repair MLflow, or correct "
            "tracking.register_as and tracking.alias"
        ) from error
    return f"models:/{register_as}@{alias}"


def has_model(run_id: str, *, uri: str) -> bool:
    """Return whether a bundle has been logged with a run.

    Raises:
        ResourceError: MLflow is unreachable, or has no such run.
    """
    client = open_client(uri, create=False)
    with answering(uri):
        outputs = client.get_run(run_id).outputs
    return outputs is not None and bool(outputs.model_outputs)


def register_bundle(
    folder: Path, run_id: str, *, uri: str, name: str, tags: Mapping[str, str]
) -> str:
    """Log a bundle with a run and register it, without an alias; returns the version.

    Raises:
        BundleError: `folder` holds no readable bundle.
        ResourceError: MLflow is unreachable or refuses.
    """
    bundle = load_bundle(folder)
    client = open_client(uri, create=False)
    try:
        model = _log(client, folder, run_id, bundle)
        return _register(client, model, name, {**_tags(bundle), **tags})
    except Exception as error:  # stores raise errors of many kinds
        raise unusable(uri, error) from error


def _logged(
    client: "mlflow.MlflowClient", run_id: str, bundle: Bundle
) -> "mlflow.entities.LoggedModel | None":
    """Return the model that is logged of a run's bundle, and delete what is not whole."""
    from mlflow.entities import LoggedModelStatus

    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    for model in found:
        if model.status != LoggedModelStatus.READY:
            client.delete_logged_model(model.model_id)
        elif model.tags.get(BUNDLE_TAG) == bundle.digest:
            return model
    return None


def _log(
    client: "mlflow.MlflowClient", folder: Path, run_id: str, bundle: Bundle
) -> "mlflow.entities.LoggedModel":
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(
        experiment, MODEL_NAME, source_run_id=run_id, tags=_tags(bundle)
    )
    with TemporaryDirectory(prefix="raymc-") as temporary:
        files = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            files,
            loader_module=LOADER,
            data_path=str(folder),
            mlflow_model=Model(
                artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id
            ),
            signature=_signature(bundle.modalities),
            input_example=pd.DataFrame(
                {one.name: [[[0.0] * one.dim]] for one in bundle.modalities}
            ),
            pip_requirements=[f"raymc=={raymc.__version__}"],
        )
        client.log_model_artifacts(logged.model_id, str(files))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return client.finalize_logged_model(logged.model_id, "READY")


def _register(
    client: "mlflow.MlflowClient",
    model: "mlflow.entities.LoggedModel",
    name: str,
    tags: Mapping[str, str],
) -> str:
    """Make the model the newest version of a registered model, once; returns the version."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{name}'")
    made = next((one for one in known if one.source == model.artifact_location), None)
    # By location: MLflow resolves a `models:/` address with the process's tracking address only.
    made = made or client.create_model_version(
        name,
        model.artifact_location,
        run_id=model.source_run_id,
        model_id=model.model_id,
        tags=dict(tags),
    )
    versions = [{"name": name, "version": made.version}]
    client.set_logged_model_tags(model.model_id, {_VERSIONS_TAG: json.dumps(versions)})
    return str(made.version)


def _signature(modalities: Sequence[Modality]) -> "mlflow.models.ModelSignature":
    """Return what the model reads: a list of tokens per modality, or the path of a video.

    The content of the lists and times is left open, and the bundle checks it: MLflow would refuse
    the integer 2 where it expects 2.0, and JSON does not distinguish them.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, Schema

    from raymc.tracking.pyfunc_model import MEDIA, PATH

    kinds = {name: "string" if name == PATH else AnyType() for name in MEDIA}
    kinds |= {one.name: Array(AnyType()) for one in modalities}
    return ModelSignature(
        inputs=Schema([ColSpec(kind, name=name, required=False) for name, kind in kinds.items()])
    )


@dataclass(frozen=True)
class RecordedTest:
    """What a version was tested on, and the result.

    `dataset` is its address, `digest` that of its content at that time, and `metrics` are rates,
    each with the ends of its interval.
    """

    dataset: str
    digest: str
    split: str
    metrics: Mapping[str, tuple[float, float, float]]

    def to_tags(self) -> dict[str, str]:
        """Return the test as tags of a version; `of_tags` reads them."""
        metrics = {name: [round(x, 6) for x in each] for name, each in self.metrics.items()}
        return {
            _DATASET: self.dataset,
            _DIGEST: self.digest,
            _SPLIT: self.split,
            _METRICS: json.dumps(metrics),
        }

    @staticmethod
    def of_tags(tags: Mapping[str, str]) -> "RecordedTest | None":
        """Return the test that a version's tags describe, or None."""
        if not {_DATASET, _DIGEST, _SPLIT, _METRICS} <= tags.keys():
            return None
        metrics = {name: tuple(each) for name, each in json.loads(tags[_METRICS]).items()}
        return RecordedTest(tags[_DATASET], tags[_DIGEST], tags[_SPLIT], metrics)


@dataclass(frozen=True)
class Version:
    """A version of a registered model, with the location of its files.

    `weights` is the digest of its weights, empty if raymc did not register it; `bundle` that of
    all of its bundle, empty if raymc 0.1.0 did.
    """

    name: str
    number: str
    location: str
    weights: str
    bundle: str
    tested: RecordedTest | None

    def is_of(self, bundle: Bundle) -> bool:
        """Whether a bundle is that of this version."""
        same = self.weights == bundle.weights_digest
        return same and self.bundle in ("", bundle.digest)


class Registry:
    """The registry of an MLflow server or database.

    Raises:
        ResourceError: MLflow is unreachable, or refuses. Every method may raise it.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client = open_client(uri, create=False)

    def holder(self, name: str, alias: str) -> Version | None:
        """Return the version of a model that holds an alias, or None."""
        from mlflow.exceptions import MlflowException

        try:
            aliases = self._client.get_registered_model(name).aliases
            if alias not in aliases:
                return None
            return _version(self._client.get_model_version(name, aliases[alias]))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise unusable(self.uri, error) from error

    def version_of(self, name: str, bundle: Bundle) -> Version | None:
        """Return the newest version of a model that is this bundle, or None."""
        with answering(self.uri):
            found = self._client.search_model_versions(f"name = '{name}'")
        same = [version for version in map(_version, found) if version.is_of(bundle)]
        return max(same, key=lambda version: int(version.number), default=None)

    def fetch_bundle(self, version: Version, folder: Path) -> Path:
        """Copy a version's bundle into `folder`; returns the bundle's folder.

        Raises:
            BundleError: The version isn't a model of raymc.
        """
        from mlflow.artifacts import download_artifacts

        try:
            files = download_artifacts(
                version.location, dst_path=str(folder), tracking_uri=with_password(self.uri)
            )
        except Exception as error:  # stores raise errors of many kinds
            raise unusable(self.uri, error) from error
        found = sorted(Path(files).glob(f"data/*/{DESCRIPTION}"))
        if not found:
            raise BundleError(
                f"version {version.number} of {version.name} is not a bundle of raymc: promote "
                "under another --name"
            )
        return found[0].parent

    def record(self, version: Version, tested: RecordedTest) -> None:
        """Record a test of a version."""
        with answering(self.uri):
            for key, value in tested.to_tags().items():
                self._client.set_model_version_tag(version.name, version.number, key, value)

    def point(self, name: str, alias: str, number: str) -> None:
        """Move an alias to a version."""
        with answering(self.uri):
            self._client.set_registered_model_alias(name, alias, number)


def _tags(bundle: Bundle) -> dict[str, str]:
    return {WEIGHTS_TAG: bundle.weights_digest, BUNDLE_TAG: bundle.digest}


def _version(found: "ModelVersion") -> Version:
    return Version(
        name=found.name,
        number=str(found.version),
        location=str(found.source),
        weights=found.tags.get(WEIGHTS_TAG, ""),
        bundle=found.tags.get(BUNDLE_TAG, ""),
        tested=RecordedTest.of_tags(found.tags),
    )
