"""Sweeps as `raymc tune` leaves them, made without Ray: a folder, a study, checkpoints."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from optuna.trial import TrialState, create_trial
from tiny import LABELS, MODALITIES, SHARD_ROWS, SPLIT_ROWS, VOCABULARY, fit_here, tiny_row

from raymc.config import Config, flatten, override
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, open_dataset, write_dataset
from raymc.events import EpochEnded
from raymc.search.study import distributions, open_study
from raymc.search.trials import Epoch, failure
from raymc.training.bundle import save_bundle
from raymc.training.runs import open_run

# Names that would break a page, or a formula, if anything forgot to escape them.
ODD_NAMES = ("<script>alert(1)</script>", "\"a\" & 'b'", "$x_{1}$ </svg>", "spell", "{{ other }}")


@dataclass(frozen=True)
class Planned:
    """A trial to make: what it chose, how it ended, its metric by epoch, and if it is trained."""

    params: Mapping[str, object]
    state: TrialState = TrialState.COMPLETE
    values: Sequence[float] = ()
    message: str = ""
    is_trained: bool = False
    others: Mapping[str, float] = field(default_factory=dict)


def odd_dataset(path: Path, names: Sequence[str] = ODD_NAMES) -> Dataset:
    """The tiny dataset under other names; those of classes beyond `names` are left out."""
    known = dict(zip(LABELS, names))

    def renamed(split: str, index: int) -> object:
        row = tiny_row(split, index)
        labels = [known[label] for label in row.labels if label in known]
        return replace(row, id=f"<i>{row.id}</i>", labels=labels, observed=None)

    write_dataset(
        str(path),
        {split: [renamed(split, i) for i in range(rows)] for split, rows in SPLIT_ROWS.items()},  # pyright: ignore
        vocabulary=Vocabulary(tuple(names)) if names != LABELS else VOCABULARY,
        modalities=MODALITIES,
        shard_rows=SHARD_ROWS,
    )
    return open_dataset(str(path))


def make_sweep(config: Config, dataset: Dataset, planned: Sequence[Planned]) -> Path:
    """Make a sweep's folder; its bundle is the best trained trial's."""
    run = open_run(config, sweep=True)
    folder = run.folder
    study = open_study(replace(run, config=override(config, {"search.try_default": False})))
    space = distributions(config)
    for number, plan in enumerate(planned):
        values = dict(enumerate(plan.values, 1))
        kept = ""
        if plan.is_trained:
            values, folder_kept = _train(override(config, plan.params), dataset, folder, number)
            kept = str(folder_kept)
        attributes = failure(plan.message, 2.0 * len(values)) if plan.message else {}
        for epoch, value in values.items():
            metrics = {config.train.monitor: value, "val/R80": 0.5}
            noted = Epoch(epoch, value, metrics, 2.0 * len(values), kept).attribute()
            attributes |= [noted]
        study.add_trial(
            create_trial(
                state=plan.state,
                value=max(values.values()) if plan.state == TrialState.COMPLETE else None,
                params=dict(plan.params),
                distributions={path: space[path] for path in plan.params},
                intermediate_values=values,
                user_attrs=attributes,
            )
        )
    return folder


def _train(
    config: Config, dataset: Dataset, folder: Path, number: int
) -> tuple[dict[int, float], Path]:
    values, kept = dict[int, float](), folder / "trials" / f"trial-{number:04d}"

    def keep(event: EpochEnded, made: Path | None) -> None:
        values[event.epoch] = event.metrics[config.train.monitor]
        if event.is_best and made is not None:
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(made, kept)

    fit_here(dataset, config, keep)
    return values, kept


def keep_bundle(folder: Path, number: int) -> None:
    """Make a trial's checkpoint the sweep's bundle."""
    save_bundle(folder / "trials" / f"trial-{number:04d}", folder / "bundle")


def default_of(config: Config) -> dict[str, object]:
    """The configuration's own values of what its sweep searches."""
    settings = flatten(config)
    return {path: settings[path] for path in config.search.space}
