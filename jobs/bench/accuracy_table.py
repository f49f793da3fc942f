"""The accuracy benchmark as people read it: a table in Markdown, a picture, runs in MLflow.

Top layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jobs.bench.measure import publish
from raymc.config import Config
from raymc.evaluation.scored import ScoredSplit
from raymc.metrics.bootstrap import Difference, paired_difference
from raymc.metrics.metrics import MetricName, evaluate_scores
from raymc.tracking import open_tracker
from raymc.tracking.notes import markdown_table

COMPARED: tuple[MetricName, ...] = ("mAP", "R80")
SHOWN: Mapping[MetricName, str] = {
    "mAP": "mAP",
    "R80": "R@80",
    "micro_AP": "micro-AP",
    "LRAP": "LRAP",
}
RESAMPLES = 1000


@dataclass(frozen=True)
class Found:
    """What a method came to on a dataset: its best settings and the test's scores, by seed.

    `tested` are days and commits, for a folder may be filled by several runs of the benchmark.
    """

    method: str
    params: Mapping[str, Any]
    val_metric: float
    seconds: tuple[float, ...]
    tested: tuple[str, ...]
    scored: tuple[ScoredSplit, ...]


@dataclass(frozen=True)
class Line:
    """A method beside the best of the others; metrics are in percent, one value a seed."""

    method: str
    metrics: Mapping[MetricName, Sequence[float]]
    seconds: float
    tested: str
    other: str
    ahead: Mapping[MetricName, Difference]


def lines_of(found: Sequence[Found]) -> list[Line]:
    """Measure every method's seeds, and compare it with the best other by mean mAP."""
    measured = {one.method: _metrics(one.scored) for one in found}
    lines = []
    for one in found:
        others = [other for other in found if other is not one]
        rival = max(others, key=lambda o: float(np.mean(measured[o.method]["mAP"])), default=None)
        lines.append(
            Line(
                method=one.method,
                metrics=measured[one.method],
                seconds=float(np.mean(one.seconds)),
                tested=", ".join(sorted(set(one.tested))),
                other=rival.method if rival else "",
                ahead={} if rival is None else {m: _difference(one, rival, m) for m in COMPARED},
            )
        )
    return sorted(lines, key=lambda line: -np.mean(line.metrics["mAP"]))


def _metrics(scored: Sequence[ScoredSplit]) -> dict[MetricName, list[float]]:
    runs = [evaluate_scores(one.scores, one.labels, one.observed).to_dict() for one in scored]
    return {name: [100 * run[name] for run in runs] for name in SHOWN}


def _difference(one: Found, other: Found, metric: MetricName) -> Difference:
    first = one.scored[0]
    return paired_difference(
        [run.scores for run in one.scored],
        [run.scores for run in other.scored],
        first.labels,
        first.observed,
        metric=metric,
        resamples=RESAMPLES,
    )


def publish_accuracy(
    found: Mapping[str, Sequence[Found]], configs: Mapping[str, Config], console: Console, out: Path
) -> None:
    """Print and write the table of every dataset, draw them, and log them to MLflow."""
    lines = {name: lines_of(methods) for name, methods in found.items()}
    parts = [_section(name, lines[name], found[name], configs[name]) for name in lines]
    figures = [
        {"dataset": name, "method": line.method, "seconds": line.seconds, **line.metrics}
        for name in lines
        for line in lines[name]
    ]
    publish("Accuracy", "\n".join(parts), [], console, out, figures=figures)
    draw(lines, out / "accuracy.svg")
    for name, config in configs.items():
        record(name, lines[name], found[name], config)


def _section(name: str, lines: Sequence[Line], found: Sequence[Found], config: Config) -> str:
    seeds = len(found[0].scored)
    rivalry = ["mAP against the best other", "R@80 against it"]
    header = ["", *SHOWN.values(), "seconds", *rivalry, "tested"]
    rows = [
        [
            line.method,
            *(_spread(line.metrics[metric]) for metric in SHOWN),
            f"{line.seconds:.1f}",
            *(_told(line.ahead.get(metric)) for metric in COMPARED),
            line.tested,
        ]
        for line in lines
    ]
    rows_tested = len(found[0].scored[0].ids)
    about = (
        f"`{config.data.test}` of `{config.data.path}`, {rows_tested:,} rows; {seeds} seeds, mean "
        f"± standard deviation in percent; {config.search.trials} trials a method on "
        f"`{config.data.val}`. Differences are in points, with 95 % intervals over rows and seeds "
        f"({RESAMPLES} resamples)."
    )
    return f"### {name}\n\n{about}\n\n{markdown_table(header, rows)}"


def _spread(values: Sequence[float]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.1f} ± {deviation:.1f}"


def _told(ahead: Difference | None) -> str:
    if ahead is None:
        return ""
    mark = "**" if ahead.is_clear and ahead.value > 0 else ""
    return f"{mark}{100 * ahead.value:+.1f}{mark} [{100 * ahead.low:.1f}, {100 * ahead.high:.1f}]"


def draw(lines: Mapping[str, Sequence[Line]], file: Path) -> None:
    """Draw mAP and R@80 of every dataset's methods: a dot a seed, a bar at the mean."""
    from matplotlib.figure import Figure

    height = 0.6 + 0.32 * max(len(methods) for methods in lines.values())
    figure = Figure(figsize=(8, height * len(lines)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(lines), len(COMPARED), squeeze=False))
    for row, (name, methods) in zip(axes, lines.items()):
        for axis, metric in zip(row, COMPARED):
            for place, line in enumerate(reversed(methods)):
                values = line.metrics[metric]
                axis.plot(values, [place] * len(values), "o", color="#0072B2", alpha=0.5)
                axis.plot([np.mean(values)], [place], "|", color="black", markersize=14)
            axis.set_title(f"{name}: {SHOWN[metric]}, %", fontsize=10)
            axis.set_yticks(range(len(methods)), [line.method for line in reversed(methods)])
            axis.grid(axis="x", alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def record(name: str, lines: Sequence[Line], found: Sequence[Found], config: Config) -> None:
    """Log a dataset's methods to MLflow, each a run below one of the dataset."""
    key = f"accuracy-{name}-{found[0].scored[0].dataset_digest[:8]}"
    params = {one.method: one.params for one in found}
    with open_tracker(config.tracking, config.run.folder) as tracker:
        parent = tracker.start_run(f"accuracy {name}", key=key, params={}, tags={})
        tracker.set_note(parent, _section(name, lines, found, config))
        for line in lines:
            run = tracker.start_run(
                line.method,
                key=f"{key}/{line.method}",
                parent=parent,
                params={"method": line.method, **params[line.method]},
                tags={},
            )
            means = {f"test/{m}": float(np.mean(v)) / 100 for m, v in line.metrics.items()}
            tracker.end_run(run, "complete", metrics={**means, "cost/seconds": line.seconds})
        tracker.end_run(parent, "complete")
