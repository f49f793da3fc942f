"""A trained model as a folder to give away: the bundle, what it is worth, and its model card.

Whatever takes a bundle takes the folder. It names no person's machine: of the settings only those
that shaped the model are kept. The card is the README.md that Hugging Face shows, see
https://huggingface.co/docs/hub/model-cards.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from raymc.data.shards import open_dataset
from raymc.data.storage import whole_folder, write_text
from raymc.errors import BundleError, ConfigError, DataError, first_line
from raymc.evaluation.evaluate import Evaluation, evaluate, numbers_of
from raymc.evaluation.outcomes import label_outcomes
from raymc.features.recipe import ENCODER_WEIGHTS
from raymc.metrics.bootstrap import bootstrap_interval
from raymc.metrics.text import estimate_text, percent
from raymc.training.bundle import (
    DESCRIPTION,
    WEIGHTS,
    Bundle,
    digest_of,
    load_bundle,
    read_description,
    write_bundle,
)
from raymc.training.runs import own_dataset

CARD, LICENSE, METRICS = "README.md", "LICENSE", "metrics.json"
LABELS_SHOWN = 100
_SHAPING = ("model", "loss", "optimizer", "batch", "train")  # sections of settings
_SPLITS = ("train", "val", "test", "modalities")
# Licences that Hugging Face knows by these names; any other is `other`, with its own name.
_KNOWN_LICENSES = {
    *(
        "apache-2.0",
        "mit",
        "bsd-3-clause",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
        "mpl-2.0",
        "unlicense",
    ),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0"),
    *("cc-by-nc-nd-4.0", "cc-by-3.0", "cc-by-sa-3.0", "openrail", "unknown"),
}
_TASKS = {"visual": "video-classification", "audio": "audio-classification"}


@dataclass(frozen=True, kw_only=True)
class _About:
    """What a model's own files don't say; each text may be empty.

    `measured` is None if no clips are at hand that did not train it; `note` says why.
    """

    title: str
    license: str
    dataset: str
    data_license: str = ""
    clips: str = ""
    measured: Evaluation | None = None
    note: str = ""


def export(
    bundle: Bundle,
    out: Path,
    *,
    name: str = "",
    license: str = "",
    dataset: str = "",
    split: str = "",
) -> list[str]:
    """Write a bundle to a new folder with its metrics, licences and model card.

    The folder appears whole or not at all, with the modes that the umask gives. The bundle in it
    has the same weights, labels, thresholds and calibration, and so the same scores.

    Args:
        bundle: The model.
        out: The folder.
        name: Title of the card; empty: the folder's name.
        license: Of the model, such as `cc-by-4.0`; empty: unknown.
        dataset: Address of a dataset to measure the model on; empty: the one that it was trained
            on, if it is where the settings say and can be read.
        split: To measure on; empty: the test split.

    Returns:
        What is missing in the folder, and how to add it; a line each.

    Raises:
        BundleError: The bundle was changed or can no longer be read, or does not match `dataset`.
        ConfigError: The licence is longer than a line.
        DataError: `out` exists already, or can't be written; or `dataset` can't be read.
    """
    if out.exists():
        raise DataError(f"{out} already exists: choose another --out")
    if "\n" in license:
        raise ConfigError("--license is the name of a licence, such as cc-by-4.0, not its text")
    about = _about(bundle, name or out.absolute().name, license.strip(), dataset, split)
    weights, description = (bundle.folder / WEIGHTS).read_bytes(), read_description(bundle.folder)
    if digest_of(description) != bundle.digest:
        raise BundleError(f"bundle {bundle.folder} was replaced meanwhile: export it again")
    card = _Card(bundle, about, description["raymc_version"])
    config = {section: description["config"][section] for section in _SHAPING}
    data = description["config"].get("data", {})
    config["data"] = {key: data[key] for key in _SPLITS if key in data} | {"path": about.dataset}
    try:
        with whole_folder(out) as partial:
            write_bundle(partial, weights, {**description, "config": config})
            write_text(partial / METRICS, json.dumps(card.metrics(), indent=1, allow_nan=False))
            write_text(partial / LICENSE, card.licenses())
            write_text(partial / CARD, card.text())
            if load_bundle(partial).weights_digest != bundle.weights_digest:
                raise BundleError(f"bundle {bundle.folder} was replaced meanwhile: export it again")
    except OSError as error:
        raise DataError(f"{out} can't be written: {error.strerror or error}") from error
    unlicensed = "no licence is named, so others may not use the model: give --license cc-by-4.0"
    return [line for line in (about.note, "" if about.license else unlicensed) if line]


def _about(bundle: Bundle, title: str, license: str, dataset: str, split: str) -> _About:
    known = _About(title=title, license=license, dataset=_dataset_name(bundle.config.data.path))
    split, only = split or bundle.config.data.test, "the card has the metrics of validation only"
    try:
        opened = open_dataset(dataset) if dataset else own_dataset(bundle)
        manifest = opened.manifest
        if manifest.digest() == bundle.dataset_digest:
            known = replace(known, data_license=manifest.license, clips=manifest.rows_text())
            known = replace(known, dataset=known.dataset or _dataset_name(opened.path))
        if not manifest.rows(split) and not dataset:
            return replace(known, note=f"{only}: its dataset has no clips in the split {split!r}")
        return replace(known, measured=evaluate(bundle, opened, split))
    except (BundleError, ConfigError, DataError) as error:
        # Of its own dataset it may be, for one, that a label was added to the model since.
        if dataset:
            raise
        return replace(known, note=f"{only}: {first_line(error)}")


def _dataset_name(path: str) -> str:
    """Return the last part of a dataset's address; empty if that is the folder of a person."""
    is_home = "://" not in path and Path(path).expanduser() == Path.home()
    return "" if is_home else PurePosixPath(path).name


class _Card:
    """What is written about a bundle."""

    def __init__(self, bundle: Bundle, about: _About, made_by: str) -> None:
        self.bundle, self.about, self.title = bundle, about, about.title
        self.made_by = made_by
        self.dataset, self.license = about.dataset, about.license or "unknown"
        self.split = about.measured.scored.split if about.measured else bundle.config.data.val

    def metrics(self) -> dict[str, Any]:
        """Return all metrics by name as JSON values, and what they were measured on."""
        if self.about.measured is None:
            kept = {key.removeprefix("val/"): x for key, x in self.bundle.metrics.items()}
            return {"split": self.split, "metrics": _finite(kept)}
        outcomes = label_outcomes(self.bundle, self.about.measured.scored)
        labels = {
            one.label: _finite(
                {"AP": float(ap), "clips": one.clips, "found": one.found}
                | {"false_alarms": one.false_alarms}
            )
            for one, ap in zip(outcomes, self.about.measured.scores.per_class_AP)
        }
        return {
            "split": self.split,
            "clips": len(self.about.measured.scored.ids),
            "metrics": _finite(numbers_of(self.about.measured)),
            "labels": labels,
        }

    def licenses(self) -> str:
        """Return the file that names the licence of each part."""
        lines = [f"{self.title}: {WEIGHTS}, {DESCRIPTION}", f"  {self.license}", ""]
        lines += [f"Training data: {self.dataset or 'not named'}"]
        lines += [f"  {self.about.data_license or 'unknown'}", ""]
        for one in self.bundle.modalities:
            lines += [
                f"Encoder of {one.name} (not in this folder)",
                f"  {one.encoder or 'unknown'}",
            ]
        return "\n".join(lines) + "\n"

    def text(self) -> str:
        """Return the model card: YAML between lines of dashes, then Markdown."""
        front = yaml.safe_dump(self._front(), sort_keys=False, allow_unicode=True)
        parts = [self._intro(), self._use(), self._worth(), self._labels(), self._features()]
        parts += [self._training(), _LIMITS.format(self._precision()), self._licence(), _CITATION]
        return f"---\n{front}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"

    def _front(self) -> dict[str, Any]:
        known = self.license.lower() in _KNOWN_LICENSES
        front: dict[str, Any] = {"license": self.license.lower() if known else "other"}
        if not known:
            front |= {"license_name": _slug(self.license), "license_link": LICENSE}
        front |= {
            "library_name": "raymc",
            "pipeline_tag": self._task(),
            "tags": ["raymc", "multi-label", "education", "prototypes", *self._modalities()],
        }
        if self.dataset:
            front["datasets"] = [_slug(self.dataset)]
        rates = [(name, x) for name, x in self._overall() if x is not None]
        front["metrics"] = [name for name, _ in rates]
        data = self.dataset or "not named"
        result = {
            "task": {"type": self._task()},
            "dataset": {"name": data, "type": _slug(data), "split": self.split},
            "metrics": [{"type": name, "value": x, "name": name} for name, x in rates],
        }
        front["model-index"] = [{"name": self.title, "results": [result]}]
        return front

    def _overall(self) -> list[tuple[str, float | None]]:
        """Return the metrics of all labels together: neither those of groups nor counts."""
        found = self.metrics()["metrics"]
        return [(name, x) for name, x in found.items() if name in _METRICS]

    def _modalities(self) -> list[str]:
        return [modality.name for modality in self.bundle.modalities]

    def _task(self) -> str:
        tasks = [_TASKS[name] for name in self._modalities() if name in _TASKS]
        return sorted(tasks, reverse=True)[0] if tasks else "video-classification"

    def _precision(self) -> str:
        return f"{100 * self.bundle.config.train.target_precision:g} %"

    def _intro(self) -> str:
        count, read = len(self.bundle.vocabulary), ", ".join(self._modalities())
        scored = "one linear classifier per label."
        if self.bundle.model.head == "cosine":
            scored = "one prototype per label; a clip is scored by its similarity to each."
        return (
            f"# {_plain(self.title)}\n\nThis model gives clips of videos any of {count:,} labels, "
            f"with a probability for each, from {_plain(read)}. It was trained with raymc "
            f"{self.made_by}: a transformer over all modalities, and {scored}"
        )

    def _use(self) -> str:
        if self.bundle.recipe is None:
            return (
                "## Use\n\nThe features that it reads were not made by raymc. Give it a dataset "
                "whose features were made as those below:\n\n"
                "```\nraymc predict FOLDER data/mine --out labels.csv\n```"
            )
        return (
            "## Use\n\nFOLDER is this folder. The videos' features are made as those of its "
            "training data were.\n\n```\nraymc predict FOLDER new-videos/ --out labels.csv\n```\n\n"
            "```python\nimport raymc\n\nlabels = raymc.predict(raymc.load(FOLDER), "
            '"new-videos/")\n```'
        )

    def _worth(self) -> str:
        measured, values = self.about.measured, dict(self._overall())
        where = (
            f"Measured on the split {_plain(self.split)} of {_plain(self.dataset or 'a dataset')}"
        )
        if measured is not None:
            where += f": {len(measured.scored.ids):,} clips. The interval is of 95 %, by bootstrap"
        chosen = (
            " Its best epoch and thresholds were chosen there, so other clips will score worse."
        )
        heading = f"{where}.{chosen if self._is_of_validation() else ''}"
        rows = []
        for name, value in values.items():
            if value is None:
                continue
            text = f"{value:.2f}" if name == "coverage" else percent(value)
            if measured is not None and name == "mAP":
                judged = (measured.scored.scores, measured.scored.labels, measured.scored.observed)
                text = estimate_text(value, *bootstrap_interval(*judged)) + " %"
            rows.append((_METRICS[name], text))
        return f"## How good it is\n\n{heading}\n\n{_table(('metric', 'value'), rows)}"

    def _is_of_validation(self) -> bool:
        measured = self.about.measured
        is_same = measured is None or measured.scored.dataset_digest == self.bundle.dataset_digest
        return is_same and self.split == self.bundle.config.data.val

    def _labels(self) -> str:
        names, thresholds = self.bundle.vocabulary.names, self.bundle.thresholds
        given = ["yes" if math.isfinite(threshold) else "no" for threshold in thresholds]
        head: tuple[str, ...] = ("label", "given")
        rows: list[tuple[str, ...]] = list(zip(names, given))
        if self.about.measured is not None:
            head = ("label", "given", "clips", "average precision", "found", "false alarms")
            outcomes = label_outcomes(self.bundle, self.about.measured.scored)
            precisions = self.about.measured.scores.per_class_AP
            rows = [
                (one.label, is_given, str(one.clips), percent(float(ap)))
                + ((str(one.found), str(one.false_alarms)) if is_given == "yes" else ("–", "–"))
                for one, is_given, ap in zip(outcomes, given, precisions)
            ]
        rest = len(rows) - LABELS_SHOWN
        more = f"\n\n… and {rest:,} more in `{DESCRIPTION}`." if rest > 0 else ""
        without = (
            f" A label that is not given never reached {self._precision()} precision reliably; "
            "only its probability is written."
            if "no" in given
            else ""
        )
        if self.bundle.added is not None:
            added = _plain(", ".join(names[-len(self.bundle.added) :]))
            without += f" Added later from a few clips, without training: {added}."
        table = _table(head, rows[:LABELS_SHOWN])
        return f"## Labels\n\n{len(names):,} labels.{without}\n\n{table}{more}"

    def _features(self) -> str:
        rows = [
            (one.name, one.encoder or "not named", str(one.dim), f"{one.rate_hz:g}")
            for one in self.bundle.modalities
        ]
        head = ("modality", "encoder (licence)", "values a token", "tokens a second")
        recipe = self.bundle.recipe or {}
        settings = {key: value for key, value in recipe.items() if key != ENCODER_WEIGHTS}
        told = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
        made = f"\n\nSettings of `raymc extract`: {_plain(told)}." if told else ""
        return f"## Features\n\n{_table(head, rows)}{made}"

    def _training(self) -> str:
        clips = f": {self.about.clips} clips" if self.about.clips else ""
        loss = self.bundle.config.loss.name
        return (
            f"## Training\n\nTrained on {_plain(self.dataset or 'a dataset that is not named')}"
            f"{clips}, with the loss `{loss}`. All settings are in `{DESCRIPTION}`."
        )

    def _licence(self) -> str:
        return (
            f"## Licence\n\n- Model: {_plain(self.license)}\n- Training data: "
            f"{_plain(self.about.data_license or 'unknown')}\n\n`{LICENSE}` lists all parts."
        )


_METRICS = {
    "mAP": "mAP: average precision, mean over labels",
    "micro_AP": "average precision of all labels together",
    "R80": "R@80: recall at 80 % precision, mean over labels",
    "LRAP": "label ranking average precision",
    "coverage": "coverage: how many top labels contain all that a clip has",
    "precision": "precision of labels given",
    "recall": "recall of labels given",
    "ECE": "calibration error of probabilities",
}
_LIMITS = (
    "## Limits\n\nLabels are given where the score reaches a threshold, which was chosen for {} "
    "precision on validation clips. That holds for clips like those. On videos of another kind, "
    "source or language, check some by hand first."
)
_CITATION = (
    "## Method\n\nAfter Gupta et al., *Class Prototypes based Contrastive Learning for Classifying "
    "Multi-Label and Fine-Grained Educational Videos* (CVPR 2023), in an independent "
    "implementation."
)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return numbers as JSON has them: null for what has no value."""
    return {name: x if math.isfinite(x) else None for name, x in values.items()}


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.").lower() or "unnamed"


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line, also in a table."""
    escaped = re.sub(r"([\\`*_\[\]#|~$])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
