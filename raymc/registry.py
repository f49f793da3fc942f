"""MLflow's registry of models: which version an alias points at, what it was tested on, its files.

Top layer; imports mlflow inside functions only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raymc.bundle import DESCRIPTION
from raymc.errors import BundleError
from raymc.serving import WEIGHTS_TAG
from raymc.tracking.connect import answering, open_client, unusable

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_DATASET, _DIGEST, _SPLIT, _METRICS = (
    f"raymc.test_{part}" for part in ("dataset", "digest", "split", "metrics")
)


@dataclass(frozen=True)
class RecordedTest:
    """What a version was tested on, and how it did.

    Attributes:
        dataset: its address.
        digest: of the dataset as it was then.
        split: its name.
        metrics: rates, each with the ends of its interval.
    """

    dataset: str
    digest: str
    split: str
    metrics: Mapping[str, tuple[float, float, float]]

    def to_tags(self) -> dict[str, str]:
        """Return it as tags of a version; `of_tags` is the way back."""
        metrics = {name: [round(x, 6) for x in each] for name, each in self.metrics.items()}
        return {
            _DATASET: self.dataset,
            _DIGEST: self.digest,
            _SPLIT: self.split,
            _METRICS: json.dumps(metrics),
        }

    @staticmethod
    def of_tags(tags: Mapping[str, str]) -> "RecordedTest | None":
        """Return what a version's tags say; None where they say nothing of it."""
        if not {_DATASET, _DIGEST, _SPLIT, _METRICS} <= tags.keys():
            return None
        metrics = {name: tuple(each) for name, each in json.loads(tags[_METRICS]).items()}
        return RecordedTest(tags[_DATASET], tags[_DIGEST], tags[_SPLIT], metrics)


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        name: of the model.
        number: of the version.
        location: of its files.
        weights: digest of its weights; empty where raymc did not register it.
        tested: None where no test is recorded.
    """

    name: str
    number: str
    location: str
    weights: str
    tested: RecordedTest | None


class Registry:
    """The registry of an MLflow server or database.

    Raises:
        ResourceError: MLflow is away, or refuses; so of every method.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client = open_client(uri, create=False)

    def holder(self, name: str, alias: str) -> Version | None:
        """Return the version of a model that an alias points at; None if there is none."""
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

    def version_of(self, name: str, weights: str) -> Version | None:
        """Return the newest version of a model that has these weights; None if there is none."""
        with answering(self.uri):
            found = self._client.search_model_versions(f"name = '{name}'")
        same = [_version(one) for one in found if one.tags.get(WEIGHTS_TAG) == weights]
        return max(same, key=lambda version: int(version.number), default=None)

    def fetch_bundle(self, version: Version, folder: Path) -> Path:
        """Copy a version's bundle below `folder`; returns the bundle's folder.

        Raises:
            BundleError: the version is no model of raymc.
        """
        from mlflow.artifacts import download_artifacts

        try:
            files = download_artifacts(
                version.location, dst_path=str(folder), tracking_uri=self.uri
            )
        except Exception as error:  # whatever a store of files raises
            raise unusable(self.uri, error) from error
        found = sorted(Path(files).glob(f"data/*/{DESCRIPTION}"))
        if not found:
            raise BundleError(
                f"version {version.number} of {version.name} is no bundle of raymc: promote under "
                "another --name"
            )
        return found[0].parent

    def record(self, version: Version, tested: RecordedTest) -> None:
        """Note what a version was tested on."""
        with answering(self.uri):
            for key, value in tested.to_tags().items():
                self._client.set_model_version_tag(version.name, version.number, key, value)

    def point(self, name: str, alias: str, number: str) -> None:
        """Make an alias point at a version, and no longer at another."""
        with answering(self.uri):
            self._client.set_registered_model_alias(name, alias, number)


def _version(found: "ModelVersion") -> Version:
    return Version(
        name=found.name,
        number=str(found.version),
        location=str(found.source),
        weights=found.tags.get(WEIGHTS_TAG, ""),
        tested=RecordedTest.of_tags(found.tags),
    )
