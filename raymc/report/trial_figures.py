"""Draws a sweep: its history, each trial's course, and the settings against the results."""

# Not Optuna's plots (optuna.visualization.matplotlib): their history and slices leave pruned
# trials out, which are half of a sweep under ASHA; their intermediate values colour each trial at
# random, not by how it ended; and they set matplotlib's style for the whole process.

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raymc.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SEQUENTIAL,
    as_svg,
    percent,
    short,
    whole_numbers,
)
from raymc.report.trials import best_so_far
from raymc.search.trials import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Space = Mapping[str, BaseDistribution]
Which = Literal["x", "y"]
# The look of a trial's state: colour, marker, filled.
_LOOKS = {
    "complete": (BLUE, "o", True),
    "pruned": (ORANGE, "s", False),
    "running": (GREY, "^", True),
}
MOST_PAIRS, MOST_IN_PAIRS = 3, 4
FEWEST_FOR_SURFACE = 6


def scored(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have a value."""
    return [trial for trial in trials if not math.isnan(trial.score)]


def history(trials: Sequence[Trial], metric: str) -> Markup:
    """Draw each trial's value and the best so far."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        numbers = [trial.number for trial in trials]
        axes.step(
            numbers, best_so_far(trials), where="post", color=GREEN, lw=2, label="best so far"
        )
        _scatter(axes, trials, lambda trial: trial.number)
        axes.set(xlabel="trial", ylabel=metric)
        whole_numbers(axes)
        percent(axes)
        _legend(figure, axes)

    return as_svg(draw, name="history", label=f"{metric} of each trial, and the best", height=2.9)


def courses(trials: Sequence[Trial], metric: str, best: int) -> Markup:
    """Draw the metric of every trial by epoch."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for trial in trials:
            epochs = [epoch.number for epoch in trial.epochs]
            course = [epoch.value for epoch in trial.epochs]
            colour, marker, _ = _LOOKS.get(trial.state, (GREY, "x", True))
            if trial.number == best:
                axes.plot(epochs, course, color=GREEN, lw=2.5, zorder=3)
            else:
                axes.plot(epochs, course, color=colour, lw=1, alpha=0.7)
                axes.plot(epochs[-1:], course[-1:], marker, color=colour, ms=5, mfc="white")
        for colour, name in ((GREEN, "best"), (BLUE, "complete"), (ORANGE, "pruned")):
            axes.plot([], [], color=colour, label=name)
        axes.set(xlabel="epoch", ylabel=metric)
        whole_numbers(axes)
        percent(axes)
        _legend(figure, axes)

    return as_svg(draw, name="courses", label=f"{metric} of each trial by epoch", height=2.9)


def importance_bars(shares: Mapping[str, float]) -> Markup:
    """Draw the importance of each setting."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        names, values = list(shares)[::-1], list(shares.values())[::-1]
        axes.barh([short(name, 26) for name in names], values, color=BLUE, height=0.6)
        for place, value in enumerate(values):
            axes.annotate(
                f"{value:.0%}", (value, place), (4, 0), textcoords="offset points", va="center"
            )
        axes.set_xlim(0, 1.12 * max(values))
        axes.set_xlabel("share of the differences between trials")
        percent(axes, which="x")
        axes.tick_params(axis="y", length=0)

    height = 0.9 + 0.32 * len(shares)
    return as_svg(draw, name="importances", label="importance of each setting", height=height)


def slices(trials: Sequence[Trial], space: Space, metric: str) -> Markup:
    """Draw the metric against each setting."""
    names = list(space)
    columns = 1 if len(names) == 1 else 2
    rows = -(-len(names) // columns)

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, name in zip(grid.flat, names):
            values = _places([trial.params[name] for trial in scored(trials)], space[name])
            where = dict(zip((trial.number for trial in scored(trials)), values))
            _scatter(axes, trials, lambda trial, where=where: where[trial.number])
            _dress(axes, "x", name, space[name])
            percent(axes)
        for axes in grid[:, 0]:
            axes.set_ylabel(metric)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        _legend(figure, grid.flat[0])

    label = f"{metric} against each setting"
    return as_svg(draw, name="slices", label=label, height=0.4 + 2.2 * rows)


def pairs_of(shares: Mapping[str, float], space: Space) -> list[tuple[str, str]]:
    """Return the pairs of settings to draw as contours: the most important ones that vary."""
    ranked = sorted(space, key=lambda name: -shares.get(name, 0.0))
    varying = [name for name in ranked if not space[name].single()]

    def choices(pair: tuple[str, str]) -> int:
        return sum(_is_choice(space[name]) for name in pair)

    pairs = [pair for pair in combinations(varying[:MOST_IN_PAIRS], 2) if choices(pair) < 2]
    return sorted(pairs, key=choices)[:MOST_PAIRS]


def contours(
    trials: Sequence[Trial], space: Space, metric: str, pairs: Sequence[tuple[str, str]]
) -> Markup:
    """Draw the metric over pairs of settings, as a surface between the trials."""
    shown = scored(trials)
    values = np.array([trial.score for trial in shown])
    span = (values.min(), values.max() if np.ptp(values) else values.min() + 1e-9)

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(len(pairs), 1, squeeze=False)[:, 0]
        points: Any = None
        for axes, (across, up) in zip(grid, pairs):
            x, y = (
                _places([trial.params[name] for trial in shown], space[name])
                for name in (across, up)
            )
            _dress(axes, "x", across, space[across])
            _dress(axes, "y", up, space[up])
            if not any(_is_choice(space[name]) for name in (across, up)):
                _surface(axes, (x, y), values, span)
            points = axes.scatter(
                x, y, c=values, cmap=SEQUENTIAL, vmin=span[0], vmax=span[1], s=34,
                edgecolors="white", linewidths=1.2, zorder=3,
            )  # fmt: skip
        bar = figure.colorbar(points, ax=list(grid), label=metric, aspect=14 * len(pairs))
        percent(bar.ax)

    label = f"{metric} over pairs of settings"
    return as_svg(draw, name="contours", label=label, height=0.3 + 2.7 * len(pairs))


def _surface(
    axes: "Axes", points: tuple[np.ndarray, np.ndarray], values: np.ndarray, span: tuple
) -> None:
    """Fill the area between points, if there are enough and they don't lie on a line."""
    from matplotlib.tri import Triangulation

    if len(values) < FEWEST_FOR_SURFACE or span[0] == span[1]:
        return
    scaled = [_scaled(place, scale) for place, scale in zip(points, (axes.xaxis, axes.yaxis))]
    if np.linalg.matrix_rank(np.stack(scaled) - np.mean(scaled, axis=1, keepdims=True)) < 2:
        return
    triangles = Triangulation(*scaled).triangles
    levels = np.linspace(span[0], span[1], 10)
    axes.tricontourf(Triangulation(*points, triangles), values, levels, cmap=SEQUENTIAL, alpha=0.75)


def _is_choice(kind: BaseDistribution) -> bool:
    return isinstance(kind, CategoricalDistribution)


def _scaled(places: np.ndarray, axis: Any) -> np.ndarray:
    """Return positions along an axis, from 0 to 1."""
    along = np.log10(places) if axis.get_scale() == "log" else places
    return (along - along.min()) / (np.ptp(along) or 1.0)


def _places(values: Sequence[object], kind: BaseDistribution) -> np.ndarray:
    """Return values as numbers on an axis; a choice is its position in the list."""
    if isinstance(kind, CategoricalDistribution):
        return np.array([kind.choices.index(value) for value in values], dtype=float)  # pyright: ignore
    return np.array(values, dtype=float)


def _dress(axes: "Axes", which: Which, name: str, kind: BaseDistribution) -> None:
    """Set an axis' label, range and ticks for a setting."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}label": short(name.rpartition(".")[2], 24)})
    if isinstance(kind, CategoricalDistribution):
        texts = [short(str(choice), 14) for choice in kind.choices]
        axis.set_ticks(range(len(texts)), labels=texts)
        axes.set(**{f"{which}lim": (-0.5, len(texts) - 0.5)})
        if which == "x" and sum(map(len, texts)) > 16:
            axes.tick_params(axis="x", labelrotation=30)
    elif isinstance(kind, FloatDistribution | IntDistribution) and not kind.single():
        _span(axes, which, kind)


def _span(axes: "Axes", which: Which, kind: FloatDistribution | IntDistribution) -> None:
    """Show the whole range that was searched, on the scale of the search."""
    axis, room = axes.xaxis if which == "x" else axes.yaxis, 0.05
    if kind.log:
        wider = (kind.high / kind.low) ** room
        axes.set(**{f"{which}scale": "log", f"{which}lim": (kind.low / wider, kind.high * wider)})
        ticks = np.geomspace(kind.low, kind.high, 3)
        axis.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
        axis.set_ticks([], minor=True)
        return
    wider = room * (kind.high - kind.low)
    axes.set(**{f"{which}lim": (kind.low - wider, kind.high + wider)})
    if isinstance(kind, IntDistribution):
        whole_numbers(axes, which=which)
    else:
        axes.locator_params(axis=which, nbins=5)


def _scatter(axes: "Axes", trials: Sequence[Trial], across: Any) -> None:
    """Mark the trials that have a value, by state."""
    for state, (colour, marker, filled) in _LOOKS.items():
        some = [trial for trial in scored(trials) if trial.state == state]
        if some:
            axes.plot(
                [across(trial) for trial in some],
                [trial.score for trial in some],
                marker, color=colour, mfc=colour if filled else "white", mew=1.5, ms=6, label=state,
            )  # fmt: skip


def _legend(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
    axes.grid(axis="y", color="#E5E5E5", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)
