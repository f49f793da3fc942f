"""The bundle, a trained model ready for use: weights, settings, labels, thresholds, calibration.

It is a folder of safetensors and JSON, verified by digest when it is read. Loading it runs no
code from the folder.

Axes: N rows, C classes.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

import raymc
from raymc.config import Config, from_dict
from raymc.data.feed.batches import Batch, Block, RowStore, decode_tokens
from raymc.data.labels import Vocabulary
from raymc.data.shards import Manifest, Modality, Ragged
from raymc.data.storage import whole_folder
from raymc.errors import (
    BundleError,
    CheckpointError,
    ConfigError,
    DataError,
    UnknownSettingError,
)
from raymc.features.recipe import recipe_differences, recipe_in
from raymc.metrics.calibration import Calibration
from raymc.model.losses import head_of
from raymc.model.transformer import MultimodalTransformer
from raymc.runtime.threads import computing_threads
from raymc.training import checkpoint

WEIGHTS, DESCRIPTION = "model.safetensors", "bundle.json"
FORMAT_VERSION = 1
ADDED = "added_prototypes"  # the tensor of classes that were added without training
# All keys of the description and of its parts, apart from the settings, which check themselves.
_KEYS = {
    "": {
        *("format_version", "raymc_version", "config", "vocabulary", "modalities", "thresholds"),
        *("calibration", "metrics", "epoch", "dataset_digest", "weights_sha256", "digest"),
        *("recipe", "clip_seconds", "added"),
    },
    "vocabulary": {"names", "groups", "background", "parents"},
    "modalities": {field.name for field in fields(Modality)},
    "calibration": {"slope", "biases", "curves"},
}
ROWS_AT_A_TIME = 256
# Settings of the model that bundles of raymc 0.1.0 lack, as they were there.
_OF_0_1_0 = {"absent": "seen"}


@dataclass(frozen=True, repr=False)
class Bundle:
    """A trained model with everything needed to use it.

    Attributes:
        folder: where it was read from.
        model: in evaluation mode.
        config: the settings it was trained with.
        vocabulary: its classes, in the order of the scores.
        modalities: the modalities that it reads.
        thresholds: [C], the lowest score at which a label is predicted; infinite if no threshold
            reached the target precision on val, or val had too few rows to be sure.
        calibration: turns scores into probabilities; None if the bundle has no calibration.
        metrics: of the epoch from which it was made.
        dataset_digest: of the dataset it was trained on.
        weights_digest: SHA-256 of its weights, in hex.
        digest: SHA-256 of all of it, in hex: of its description, which has that of the weights.
        recipe: the settings with which `raymc extract` made the features; None if it didn't.
        clip_seconds: the median length of the clips it was trained on; None if it is not known.
        added: [K, E], unit prototypes of the last K classes, which were added without training.
    """

    folder: Path
    model: MultimodalTransformer
    config: Config
    vocabulary: Vocabulary
    modalities: tuple[Modality, ...]
    thresholds: np.ndarray
    calibration: Calibration | None
    metrics: Mapping[str, float]
    dataset_digest: str
    weights_digest: str
    digest: str
    recipe: Mapping[str, Any] | None = None
    clip_seconds: float | None = None
    added: Tensor | None = None

    def __repr__(self) -> str:
        """Return where it is, and what it reads and gives."""
        read = ", ".join(modality.name for modality in self.modalities)
        return f"Bundle({str(self.folder)!r}: {len(self.vocabulary):,} labels from {read})"

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.prototypes.device

    @property
    def prototypes(self) -> Tensor:
        """[C, E], the prototypes of all classes, or the weights of a linear head."""
        trained = self.model.prototypes.detach().float()
        return trained if self.added is None else torch.cat([trained, self.added.to(self.device)])

    def score(self, table: pa.Table) -> np.ndarray:
        """Return the scores of an Arrow table's rows, [N, C] float32."""
        return self.score_tokens(self.tokens_of(table))

    def tokens_of(self, table: pa.Table) -> dict[str, Ragged]:
        """Return the tokens of an Arrow table's rows; none of a modality that has no column."""
        return decode_tokens(self.filled(table), self.modalities)

    def filled(self, table: pa.Table) -> pa.Table:
        """Return a table with an empty column for each modality that it may lack, but has not."""
        for name in self._may_lack(table.column_names):
            table = table.append_column(name, pa.nulls(len(table), pa.binary()))
        return table

    def _may_lack(self, names: Collection[str]) -> list[str]:
        """Return the modalities not in `names` that the model was trained to do without."""
        lacking = [modality.name for modality in self.modalities if modality.name not in names]
        is_trained = self.config.model.modality_dropout > 0
        return lacking if is_trained and len(lacking) < len(self.modalities) else []

    def columns_in(self, manifest: Manifest) -> list[str]:
        """Return the names of those modalities of the model that a dataset has."""
        there = {modality.name for modality in manifest.modalities}
        return [modality.name for modality in self.modalities if modality.name in there]

    def score_tokens(self, tokens: Mapping[str, Ragged]) -> np.ndarray:
        """Return the scores of rows given as token arrays per modality, [N, C] float32.

        Scores are similarities to the prototypes, in [-1, 1], or logits for a linear head.
        """
        return self.embed_tokens(tokens)[1]

    def embed_tokens(self, tokens: Mapping[str, Ragged]) -> tuple[np.ndarray, np.ndarray]:
        """Return embeddings before normalisation, [N, E] float32, and scores, [N, C] float32."""
        rows, classes = len(next(iter(tokens.values()))), len(self.vocabulary)
        nothing = np.zeros((rows, classes), dtype=bool)
        store = RowStore(self.modalities, classes)
        store.add(0, Block(ids=pa.nulls(rows), tokens=tokens, labels=nothing, observed=nothing))
        starts = range(0, rows, ROWS_AT_A_TIME)
        chunks = (np.arange(at, min(rows, at + ROWS_AT_A_TIME)) for at in starts)
        with torch.inference_mode(), computing_threads(1):  # the same bits here as in Ray's tasks
            parts = [self._score_batch(store.batch(each).to(self.device)) for each in chunks]
        if not parts:
            width = self.model.prototypes.shape[1]
            return np.zeros((0, width), np.float32), np.zeros((0, classes), np.float32)
        embeddings, scores = (torch.cat(each).float().cpu().numpy() for each in zip(*parts))
        return embeddings, scores

    def _score_batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        embedding, scores = self.model.score_batch(batch)
        if self.added is None:
            return embedding, scores
        # One product a class: one of all would round the other classes' scores differently.
        unit = functional.normalize(embedding.float(), dim=-1)
        added = [unit @ prototype for prototype in self.added.to(self.device)]
        return embedding, torch.cat([scores, torch.stack(added, dim=1)], dim=1)

    def labels_above(self, scores: np.ndarray, threshold: float | None = None) -> list[list[str]]:
        """Return the labels whose score reaches their threshold, for each row of [N, C].

        A `threshold` is that of all labels' probabilities, in place of their own.
        """
        names = np.asarray(self.vocabulary.names, dtype=object)
        own = threshold is None
        given = scores >= self.thresholds if own else self.probabilities(scores) >= threshold
        return [names[row].tolist() for row in given]

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each label for scores [N, C], as [N, C] float32.

        Raises:
            BundleError: the bundle has no calibration.
        """
        if self.calibration is None:
            raise BundleError(
                "the bundle has no probabilities: train.calibration was none, its validation "
                "split had no labels, or an older raymc made it; use its scores, or train again"
            )
        return self.calibration.probabilities(scores).astype(np.float32)

    def check_dataset(self, manifest: Manifest) -> None:
        """Check that the dataset's tokens are of the kind that the model reads.

        Raises:
            BundleError: a modality is missing, or has another dim, type or rate, or was made with
                other settings.
        """
        made = recipe_in(manifest.provenance)  # first: it names the encoder whose tokens differ
        lacking = self._may_lack(self.columns_in(manifest))
        changed = recipe_differences(self.recipe, made, lacking) if self.recipe and made else []
        if changed:
            raise BundleError(
                f"the bundle reads features made in another way than the dataset's "
                f"({'; '.join(changed)}): use a dataset made in the same way as the training data"
            )
        self.check_modalities(manifest.modalities)

    def check_modalities(self, modalities: Sequence[Modality]) -> None:
        """Check that modalities are those that the model reads.

        Some may be missing if the model was trained for that (`model.modality_dropout`).

        Raises:
            BundleError: one is missing, or has another dim, type or rate.
        """
        there = {modality.name: modality for modality in modalities}
        free = self._may_lack(there)
        for expected in self.modalities:
            found = there.get(expected.name)
            if found is None and expected.name in free:
                continue
            if found is None:
                raise BundleError(
                    f"the bundle reads modality {expected.name!r}, but the dataset has only "
                    f"{', '.join(there)}: use a dataset made in the same way as the training data"
                )
            for key in ("dim", "dtype", "rate_hz", "scale", "offset"):
                here, data = getattr(expected, key), getattr(found, key)
                if here != data:
                    raise BundleError(
                        f"the bundle reads modality {expected.name!r} with {key} {here}, but the "
                        f"dataset has {key} {data}: use a dataset made in the same way as the "
                        "training data"
                    )

    def check_labels(self, manifest: Manifest) -> None:
        """Check that the dataset's labels are the model's classes.

        Raises:
            BundleError: the vocabularies differ.
        """
        ours, theirs = set(self.vocabulary.names), set(manifest.vocabulary.names)
        if self.vocabulary.names != manifest.vocabulary.names:
            odd = ", ".join(sorted(ours ^ theirs)[:3]) or "their order"
            raise BundleError(
                f"the bundle has {len(ours)} classes, the dataset {len(theirs)}: they differ in "
                f"{odd}: evaluate on a dataset with the same labels"
            )


def save_bundle(
    checkpoint_folder: Path, folder: Path, *, clip_seconds: float | None = None
) -> None:
    """Make a bundle from a checkpoint; `folder` appears complete or not at all.

    `clip_seconds` is the median length of the clips of training, if it is known.

    Raises:
        CheckpointError: the checkpoint is torn or foreign, or has no thresholds because an earlier
            epoch is better.
    """
    checkpoint.verify(checkpoint_folder)
    progress = checkpoint.load_progress(checkpoint_folder)
    if not progress.thresholds:
        raise CheckpointError(
            f"checkpoint {checkpoint_folder} of epoch {progress.epoch} has no thresholds, because "
            f"epoch {progress.best_epoch} is better: make the bundle from that one"
        )
    description = {
        "format_version": FORMAT_VERSION,
        "raymc_version": raymc.__version__,
        "config": progress.config,
        "vocabulary": progress.dataset["vocabulary"],
        "modalities": progress.dataset["modalities"],
        "thresholds": progress.thresholds,
        "calibration": progress.calibration,
        "metrics": progress.metrics,
        "epoch": progress.epoch,
        "dataset_digest": progress.dataset["digest"],
    }
    if recipe := progress.dataset.get("recipe"):
        description["recipe"] = recipe
    if clip_seconds is not None:
        description["clip_seconds"] = clip_seconds
    with whole_folder(folder, replace=True) as partial:
        write_bundle(partial, save(checkpoint.load_weights(checkpoint_folder)), description)


def write_bundle(folder: Path, weights: bytes, description: Mapping[str, Any]) -> None:
    """Write a bundle's files into a folder: weights as safetensors, and their description.

    Its digests are made here, whatever `description` has.
    """
    (folder / WEIGHTS).write_bytes(weights)
    told = {**description, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    told["digest"] = digest_of(told)
    (folder / DESCRIPTION).write_text(json.dumps(told, indent=1))


def add_prototype(
    bundle: Bundle,
    folder: Path,
    *,
    name: str,
    prototype: np.ndarray,
    threshold: float,
    calibration: Calibration | None,
) -> None:
    """Write a bundle that has one class more; `folder` appears complete or not at all.

    Args:
        bundle: Which to begin with; its head is `cosine`.
        folder: Of the new one.
        name: The new class's label.
        prototype: [E], of any length.
        threshold: The lowest score at which the label is given; infinite: never.
        calibration: Of all classes, the new one last.

    Raises:
        BundleError: The bundle was changed, or can no longer be read.
        DataError: The bundle has that label already.
    """
    description = read_description(bundle.folder)
    tensors = load(_read(bundle.folder / WEIGHTS))
    if digest_of(description) != bundle.digest:
        raise BundleError(f"bundle {bundle.folder} was replaced meanwhile: try again")
    unit = functional.normalize(torch.as_tensor(prototype, dtype=torch.float32), dim=0)
    before = [] if bundle.added is None else [bundle.added.cpu()]
    tensors[ADDED] = torch.cat([*before, unit[None]])
    vocabulary = Vocabulary.from_json(description["vocabulary"])
    described = {
        **description,
        "raymc_version": raymc.__version__,
        "vocabulary": replace(vocabulary, names=(*vocabulary.names, name)).to_json(),
        "thresholds": [*description["thresholds"], threshold if np.isfinite(threshold) else None],
        "calibration": calibration.to_json() if calibration else None,
        "added": [*description.get("added", ()), name],
    }
    with whole_folder(folder) as partial:
        write_bundle(partial, save(tensors), described)


def digest_of(description: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of a bundle's description as JSON with sorted keys.

    Its own key `digest` is left out, so that the digest can be written into the description.
    """
    told = {key: value for key, value in description.items() if key != "digest"}
    text = json.dumps(json.loads(json.dumps(told)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load_bundle(path: str | Path, *, device: str = "cpu") -> Bundle:
    """Read a bundle and verify it.

    Raises:
        BundleError: there is none, or it is torn, was changed or made by a newer raymc.
    """
    folder = Path(path)
    description = read_description(folder)
    data = _read(folder / WEIGHTS)
    if hashlib.sha256(data).hexdigest() != description.get("weights_sha256"):
        raise BundleError(f"bundle {folder} is corrupt: {WEIGHTS} differs from what was saved")
    try:
        _check_keys(folder, description)
        bundle = _assemble(folder, description, data)
    except UnknownSettingError as error:
        raise _newer(folder, str(error)) from error
    except (KeyError, TypeError, AttributeError, ValueError, ConfigError, DataError) as error:
        reason = f"{type(error).__name__}: {error}"
        if description.get("digest") == digest_of(description):  # it is as it was written
            raise _newer(folder, reason) from error
        raise BundleError(f"bundle {folder} is corrupt: {DESCRIPTION}: {reason}") from error
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(f"bundle {folder}: {WEIGHTS} does not match its configuration") from error
    if description.get("digest") != bundle.digest and not _is_of_0_1_0(description):
        how = "differs from its digest" if "digest" in description else "has lost its digest"
        raise BundleError(
            f"bundle {folder} was changed after it was saved: {DESCRIPTION} {how}; restore it "
            "from a copy, or make it again with the command of its run"
        )
    bundle.model.to(device)
    return bundle


def _assemble(folder: Path, description: Mapping[str, Any], weights: bytes) -> Bundle:
    vocabulary = Vocabulary.from_json(description["vocabulary"])
    modalities = tuple(Modality.from_json(values) for values in description["modalities"])
    settings = dict(description["config"])
    settings["model"] = {**_OF_0_1_0, **settings.get("model", {})}
    config = from_dict(settings)
    tensors = load(weights)
    added = tensors.pop(ADDED, None)
    classes = len(vocabulary) - (0 if added is None else len(added))
    model = MultimodalTransformer(
        config.model, modalities, classes=classes, head=head_of(config.loss.name)
    )
    # Bundles of models whose input was not centred have no means, and those whose groups of classes
    # go by number no places of classes. A new model has what these did without.
    model.load_state_dict({**dict(model.named_buffers()), **tensors})
    thresholds = [np.inf if t is None else t for t in description["thresholds"]]
    if len(thresholds) != len(vocabulary):
        raise ValueError(f"{len(thresholds)} thresholds of {len(vocabulary)} classes")
    fitted = description.get("calibration")  # absent from bundles of earlier versions
    calibration = Calibration.from_json(fitted) if fitted is not None else None
    if calibration is not None and len(calibration.biases) != len(vocabulary):
        raise ValueError(f"calibration of {len(calibration.biases)} of {len(vocabulary)} classes")
    return Bundle(
        folder=folder,
        model=model.eval(),
        config=config,
        vocabulary=vocabulary,
        modalities=modalities,
        thresholds=np.asarray(thresholds, dtype=np.float32),
        calibration=calibration,
        metrics=description["metrics"],
        dataset_digest=description["dataset_digest"],
        weights_digest=description["weights_sha256"],
        digest=digest_of(description),
        recipe=description.get("recipe"),
        clip_seconds=description.get("clip_seconds"),
        added=added,
    )


def _is_of_0_1_0(description: Mapping[str, Any]) -> bool:
    """Say whether raymc 0.1.0 wrote a description: it has neither a digest nor later settings."""
    settings = description["config"].get("model", {})
    return "digest" not in description and not settings.keys() & _OF_0_1_0.keys()


def _check_keys(folder: Path, description: Mapping[str, Any]) -> None:
    """Check that a description has no key that a later version of raymc may have added."""
    for section, known in _KEYS.items():
        values = description.get(section) if section else description
        for part in values if isinstance(values, list) else [values]:
            unknown = sorted(part.keys() - known) if isinstance(part, Mapping) else []
            if unknown:
                where = f" in {section!r}" if section else ""
                raise _newer(folder, f"unknown key {unknown[0]!r}{where}")


def _newer(folder: Path, reason: str) -> BundleError:
    return BundleError(
        f"bundle {folder} was made by a newer raymc than this, {raymc.__version__} ({reason}): "
        "upgrade raymc"
    )


def read_description(folder: Path) -> dict[str, Any]:
    """Return what a bundle's folder says of it, not yet compared with its digest.

    Raises:
        BundleError: There is no bundle, it can't be parsed, or a newer raymc made it.
    """
    try:
        description = json.loads(_read(folder / DESCRIPTION))
        version = int(description["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"bundle {folder} is corrupt: {DESCRIPTION} can't be read") from error
    if version > FORMAT_VERSION:
        raise BundleError(
            f"bundle {folder} has format {version}; this raymc reads up to {FORMAT_VERSION}: "
            "upgrade raymc"
        )
    return description


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path.parent} is not a raymc bundle: {path.name} can't be read ({error.strerror}); "
            "`raymc train` and `raymc tune` write one to the folder of the run"
        ) from error


def tokens_of_frames(
    columns: Mapping[str, Sequence[Any]], modalities: Sequence[Modality]
) -> dict[str, Ragged]:
    """Return token arrays of rows given as nested lists, [tokens][dim], or None if missing.

    Values are those stored, before a modality's scale and offset.

    Raises:
        BundleError: a column is missing, or a row's tokens do not fit the modality's dim or dtype.
    """
    result = {}
    for modality in modalities:
        if modality.name not in columns:
            raise BundleError(f"the input has no column {modality.name!r}, which the model reads")
        rows = [_tokens(value, modality, row) for row, value in enumerate(columns[modality.name])]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        empty = np.zeros((0, modality.dim), dtype=modality.dtype)
        result[modality.name] = Ragged(np.concatenate([empty, *rows]), offsets)
    return result


def _is_missing(value: Any) -> bool:
    """Whether a cell is None or NaN, which pandas uses for None."""
    return value is None or bool(np.isscalar(value) and value != value)


def _tokens(value: Any, modality: Modality, row: int) -> np.ndarray:
    if _is_missing(value):
        return np.zeros((0, modality.dim), dtype=modality.dtype)
    try:
        tokens = np.asarray([np.asarray(token, dtype=np.float64) for token in value])
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"row {row}: {modality.name!r} is not a nested list [tokens][dim]"
        ) from error
    if not len(tokens):
        return np.zeros((0, modality.dim), dtype=modality.dtype)
    if tokens.ndim != 2 or tokens.shape[1] != modality.dim:
        raise BundleError(
            f"row {row}: {modality.name!r} has shape {tokens.shape}, expected "
            f"[tokens, {modality.dim}]"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        stored = tokens.astype(modality.dtype)
    if not np.isfinite(stored).all() or (modality.dtype == "uint8" and (stored != tokens).any()):
        raise BundleError(
            f"row {row}: {modality.name!r} holds values that {modality.dtype} can't represent"
        )
    return stored
