"""Settings chosen by the rule of `raymc train DATASET`, beside the defaults and the fixed sizes.

Every way trains each dataset once a seed, and is judged on the validation split. The best epoch is
what a run keeps, but more epochs have more chances of a good one, so the last epoch is there too.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import NAME, Columns, Measurement, plus_minus, publish, table
from raymc.cli.options import load_config
from raymc.config import Config, Preset, from_dict, override, to_dict
from raymc.data.feed.shared import SharedData, data_here
from raymc.data.shards import Dataset
from raymc.data.survey import survey
from raymc.events import EpochEnded
from raymc.formats.prepare import prepare_dataset
from raymc.training import loop

ARGUMENTS = {"datasets": "DATASET|CONFIG..."}
DEFAULTS = "defaults"
WAYS = (DEFAULTS, "auto", "small", "medium", "large")
SCORES: Mapping[str, str] = {"mAP": "val/mAP", "R@80": "val/R80"}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is trained, and how often."""

    datasets: tuple[str, ...] = Field(
        description="Datasets, or configurations, of which only the data is used."
    )
    ways: tuple[str, ...] = Field(default=WAYS, description="Defaults, or a preset.")
    seeds: int = Field(default=5, ge=1, description="Trainings of each way.")
    sets: tuple[str, ...] = Field(
        default=(), description="Override a setting on all datasets: KEY=VALUE."
    )


def bench_presets(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Train each dataset in every way; trainings whose results are in `out` are not repeated.

    Raises:
        ConfigError: A way is neither the defaults nor a preset.
        DataError: A dataset can't be read.
    """
    torch.set_num_threads(1)
    found: dict[str, list[Measurement]] = {}
    for name in settings.datasets:
        dataset, base = _opened(name, settings.sets)
        for way in settings.ways:
            config, chosen = _fitted(base, dataset, way)
            data = data_here(dataset, config)
            one = Measurement(way, {"chosen": chosen})
            for seed in range(settings.seeds):
                one.add(**_kept(override(config, {"train.seed": seed}), data, out))
            found.setdefault(Path(name).stem, []).append(one)
            console.print(f"{dataset.path}: {way} done", style="dim")
    sections = [f"### {name}\n\n{_section(lines, settings)}" for name, lines in found.items()]
    measured = [one for lines in found.values() for one in lines]
    publish("Presets", "\n".join(sections), measured, console, out)


def _opened(name: str, sets: tuple[str, ...]) -> tuple[Dataset, Config]:
    """Return a dataset, made if need be, and the defaults for it."""
    given = load_config(name, sets)
    dataset = prepare_dataset(given)
    return dataset, from_dict({"data": to_dict(given)["data"]})


def _fitted(base: Config, dataset: Dataset, way: str) -> tuple[Config, dict[str, Any]]:
    """Return the settings of a way, and those that it has chosen."""
    if way == DEFAULTS:
        return base, {}
    size: Any = way
    chosen = Preset(size=size).settings(survey(dataset, base.data).shape)
    return override(base, chosen), chosen


def _kept(config: Config, data: SharedData, out: Path | None) -> dict[str, float]:
    """Return the scores of a training, as kept or new."""
    told = json.dumps([data.manifest.digest(), to_dict(config)], sort_keys=True)
    key = hashlib.sha256(told.encode()).hexdigest()[:16]
    file = out / "presets" / f"{key}.json" if out else None
    if file is not None and file.exists():
        return json.loads(file.read_text())
    scores = _trained(config, data)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(scores))
    return scores


def _trained(config: Config, data: SharedData) -> dict[str, float]:
    """Train in this process; return the scores of the best and of the last epoch in percent."""
    best, last = {}, {}

    def heard(event: EpochEnded, _: Path | None) -> None:
        nonlocal best, last
        last = {name: 100 * event.metrics[metric] for name, metric in SCORES.items()}
        best = last if event.is_best else best

    began = time.perf_counter()
    loop.fit(
        config,
        data.manifest,
        data.feeds(config),
        device=torch.device("cpu"),
        emit=lambda event: None,
        report=heard,
    )
    seconds = time.perf_counter() - began
    return {**best, **{f"last {name}": value for name, value in last.items()}, "seconds": seconds}


def _section(lines: list[Measurement], settings: Settings) -> str:
    first = next((one for one in lines if one.name == DEFAULTS), lines[0])

    def ahead(one: Measurement, name: str) -> str:
        """Say by how much the means differ, with the standard error of the difference."""
        if one is first:
            return ""
        pair = (one[name], first[name])
        error = sum(stdev(x) ** 2 / len(x) for x in pair) ** 0.5 if len(pair[0]) > 1 else 0.0
        return f"{mean(pair[0]) - mean(pair[1]):+.1f} ± {error:.1f}"

    columns: Columns = {
        **NAME,
        **{name: lambda m, name=name: plus_minus(m[name]) for name in SCORES},
        **{f"{name} beyond": lambda m, name=name: ahead(m, name) for name in SCORES},
        "last epoch": lambda m: " / ".join(f"{mean(m[f'last {name}']):.1f}" for name in SCORES),
        "seconds": lambda m: f"{mean(m['seconds']):.0f}",
        "chosen": lambda m: ", ".join(f"{k}={value}" for k, value in m.case["chosen"].items()),
    }
    about = (
        f"Validation split, best epoch, {settings.seeds} seeds, mean ± standard deviation in "
        f"percent; what each has beyond {first.name}, ± the standard error of the difference."
    )
    return f"{about}\n\n{table(columns, lines)}"
