"""`raymc compare`: finds runs, scores the same rows with each, and shows how they differ."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from raymc.cli.display import CountDisplay
from raymc.data.shards import open_dataset
from raymc.errors import ConfigError
from raymc.evaluation.compare import Comparison, ScoredRun, check_classes, compare
from raymc.evaluation.scoring import stored_scores
from raymc.metrics.metrics import MetricName
from raymc.report.build import save_report
from raymc.report.comparison import comparison_page, comparison_parts
from raymc.terminal import print_line
from raymc.training.bundle import load_bundle
from raymc.training.runs import find_bundle, name_of, own_dataset


def run_compare(
    runs: Sequence[str],
    console: Console,
    *,
    runs_folder: str = "runs",
    split: str = "",
    dataset: str = "",
    metric: MetricName = "mAP",
    html: Path | None = None,
) -> Comparison:
    """Compare runs with the first one on a split; print the result and, if asked, write a page.

    Each run is a name below `runs_folder`, a run's folder or a bundle. An empty dataset or split is
    the first run's `data.path` or `data.test`. The verdict is about `metric`.
    """
    if len(runs) < 2:
        raise ConfigError("a comparison needs at least two runs: raymc compare RUN RUN")
    bundles = [load_bundle(find_bundle(run, runs_folder)) for run in runs]
    names = _names(runs, [bundle.folder for bundle in bundles])
    for name, other in zip(names[1:], bundles[1:]):
        check_classes(names[0], bundles[0].vocabulary, name, other.vocabulary)
    opened = open_dataset(dataset) if dataset else own_dataset(bundles[0])
    split = split or bundles[0].config.data.test
    scored = []
    for name, bundle in zip(names, bundles):
        with CountDisplay(console, f"rows, {name}") as display:
            scored.append(stored_scores(bundle, opened, split, on_rows=display.count))
    found = compare(
        [
            ScoredRun(name, bundle.config, bundle.dataset_digest, scores)
            for name, bundle, scores in zip(names, bundles, scored)
        ]
    )
    for part in comparison_parts(found, metric):
        console.print(part)
    if html is not None:
        save_report(comparison_page(found, metric), html)
        print_line(console, f"page: {html}")
    return found


def _names(runs: Sequence[str], bundles: Sequence[Path]) -> list[str]:
    """Return each run's name, or what was typed if two runs have the same name."""
    if len({bundle.resolve() for bundle in bundles}) < len(bundles):
        raise ConfigError(f"a run is given twice: {', '.join(runs)}")
    names = [name_of(bundle) for bundle in bundles]
    return names if len(set(names)) == len(names) else list(runs)
