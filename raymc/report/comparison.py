"""A comparison as people read it: the same tables in the terminal, on its page and in a report."""

from collections.abc import Sequence

from rich.console import RenderableType

from raymc.evaluation.compare import ClassDifference, Comparison
from raymc.metrics.bootstrap import Difference
from raymc.metrics.metrics import MetricName
from raymc.metrics.text import difference_cells, difference_text, estimate_text, explained
from raymc.report.page import STYLES, Cell, Note, Page, Section, Table, number, render, text
from raymc.search.trials import param_text
from raymc.terminal import plain

CLASSES_SHOWN = 12


def comparison_parts(
    comparison: Comparison, metric: MetricName = "mAP", *, classes: int | None = CLASSES_SHOWN
) -> list[RenderableType]:
    """Return the comparison for the terminal, in the order it is read.

    The verdict is about `metric`. Of each model's classes `classes` are shown, half of them the
    largest gains and half the largest losses; None for all.
    """
    verdicts = zip(verdict_lines(comparison, metric), comparison.differences[metric])
    parts: list[RenderableType] = [
        plain(line, STYLES.get(one.verdict, "")) for line, one in verdicts
    ]
    parts += ["", plain(split_line(comparison))]
    for section in _sections(comparison, classes):
        shown = [part for part in section.parts if isinstance(part, Table | Note)]
        parts += ["", *(part.in_terminal() for part in shown)]
    return parts


def comparison_page(comparison: Comparison, metric: MetricName = "mAP") -> str:
    """Return the comparison, all classes included, as one HTML page that needs nothing else."""
    title = ", ".join(comparison.names)
    summary = [*verdict_lines(comparison, metric), f"On {split_line(comparison)}."]
    summary.append(" ".join(filter(None, map(explained, comparison.metrics))))
    about = "written by `raymc compare`"
    return render(Page(title, summary, _sections(comparison, None), about))


def verdict_lines(comparison: Comparison, metric: MetricName) -> list[str]:
    """Return a line per model: whether it is better than the baseline, and by how much."""
    baseline, *names = comparison.names
    return [
        f"{name} against {baseline}: {metric} {difference_text(one)}"
        for name, one in zip(names, comparison.differences[metric])
    ]


def split_line(comparison: Comparison) -> str:
    """Return what was compared on."""
    split = comparison.split
    return (
        f"{split.split}: {len(split.ids):,} rows, {len(split.vocabulary):,} classes; "
        f"in brackets {100 * comparison.confidence:g}\u00a0% intervals"
    )


def metric_tables(comparison: Comparison) -> list[Table]:
    """Return the models' metrics, and how far they are from the baseline's."""
    names, heads = comparison.names, ["run", *comparison.metrics]
    right = frozenset(range(1, len(heads)))
    of_models, ahead = zip(*comparison.metrics.values()), zip(*comparison.differences.values())
    rows = [
        [text(name), *(number(x.value, estimate_text(x.value, x.low, x.high)) for x in each)]
        for name, each in zip(names, of_models)
    ]
    tables = [Table("In percent", heads, rows, right)]
    if len(names) > 1:
        rows = [[text(name), *map(_difference, each)] for name, each in zip(names[1:], ahead)]
        tables.append(Table(f"Points more than {names[0]}", heads, rows, right))
    return tables


def _sections(comparison: Comparison, classes: int | None) -> list[Section]:
    names, settings = comparison.names, comparison.settings
    parts: list[Table | Note] = [Note("no setting differs that results depend on")]
    if settings:
        rows = [
            [text(key), *(text(", ".join(map(param_text, values))) for values in each)]
            for key, each in settings.items()
        ]
        right = frozenset(range(1, 1 + len(names)))
        parts = [Table("Settings that differ", ["setting", *names], rows, right)]
    metrics = metric_tables(comparison)
    return [
        Section("metrics", "Metrics", metrics[:1]),
        Section("differences", "Differences", metrics[1:]),
        Section("settings", "Settings", parts),
        *(
            Section(f"classes-{at}", f"Classes: {name}", _classes(name, names[0], found, classes))
            for at, (name, found) in enumerate(zip(names[1:], comparison.classes), 1)
        ),
    ]


def _classes(
    name: str, baseline: str, found: Sequence[ClassDifference], classes: int | None
) -> list[Table | Note]:
    """Return how many classes win and lose, and those that do most."""
    rows = [_class_row(one) for one in found]
    if classes is not None and len(found) > classes:
        half = classes // 2
        rows = [*rows[:half], [text(f"… {len(found) - 2 * half} more")], *rows[-half:]]
    heads = ["class", "rows", "baseline", "run", "points", "interval"]
    caption = f"AP by class: {name} against {baseline}"
    verdicts = [one.difference.verdict for one in found]
    counts = ", ".join(
        f"{verdicts.count(kind)} {kind}" for kind in ("better", "worse", "no clear difference")
    )
    note = (
        f"{counts}. Each interval is of its class alone: of many classes, a few intervals exclude "
        "0 by chance."
    )
    return [Table(caption, heads, rows, frozenset(range(1, 6))), Note(note)]


def _class_row(one: ClassDifference) -> list[Cell]:
    value, interval = difference_cells(one.difference)
    return [
        text(one.name),
        number(one.support, f"{one.support:,}"),
        number(one.theirs, f"{100 * one.theirs:.1f}"),
        number(one.ours, f"{100 * one.ours:.1f}"),
        number(one.difference.value, value, style=_style(one.difference)),
        Cell(interval, one.difference.low, style=_style(one.difference)),
    ]


def _difference(difference: Difference) -> Cell:
    shown = " ".join(difference_cells(difference))
    return number(100 * difference.value, shown, style=_style(difference))


def _style(difference: Difference) -> str:
    return difference.verdict if difference.is_clear else ""
