"""Figures of a model's classes: curves, prototypes beside labels, clips and prototypes in a plane.

Axes: N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from markupsafe import Markup

from raymc.report.classes import Curve
from raymc.report.drawing import BLUE, DIVERGING, GREEN, INK, ORANGE, PINK, RED, SKY, as_svg, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_CURVES = 12
MOST_CLASSES = 40  # in the heat map, whose names must stay readable
MOST_NAMES = 30  # of prototypes in the map
_POINTS = 300  # of a curve: more than its width in pixels
_MARKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (RED, "D"), (PINK, "v"), (SKY, "P"))


def curves(found: Mapping[str, tuple[Curve, float]]) -> Markup:
    """Draw precision over recall of classes, given with their average precision."""
    columns = min(3, len(found))
    rows = -(-len(found) // columns)

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, (name, (curve, precision)) in zip(grid.flat, found.items()):
            _draw_curve(axes, curve)
            axes.set_title(f"{short(name, 15)}\nAP {100 * precision:.1f} %", fontsize=9.5)
        for axes in grid.flat[len(found) :]:
            axes.set_visible(False)
        figure.supxlabel("recall", fontsize=10)
        figure.supylabel("precision", fontsize=10)

    label = "precision over recall of single classes"
    return as_svg(draw, name="curves", label=label, height=0.5 + 1.55 * rows)


def _draw_curve(axes: "Axes", curve: Curve) -> None:
    kept = _corners(curve.recall)
    axes.axhline(0.8, color=ORANGE, lw=1, ls=(0, (4, 2)))
    axes.plot(curve.recall[kept], curve.precision[kept], color=BLUE, lw=1.6, drawstyle="steps-post")
    if curve.point is not None:
        axes.plot(*curve.point, "o", color=RED, ms=6, mec="white", zorder=3)
    axes.set(xlim=(-0.03, 1.05), ylim=(0, 1.06), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.set_xticklabels(("0", ".5", "1"))
    axes.set_yticklabels(("0", ".5", "1"))


def _corners(recall: Float[np.ndarray, " P"]) -> np.ndarray:
    """Return where a curve turns, at most `_POINTS` places, which its picture can't do without."""
    steps = np.flatnonzero(np.diff(recall))
    corners = np.unique(np.concatenate([[0], steps, steps + 1, [len(recall) - 1]]))
    return corners[:: max(1, len(corners) // _POINTS)]


def similarity_map(
    names: Sequence[str],
    prototypes: Float[np.ndarray, "C C"],
    labels: Float[np.ndarray, "C C"],
) -> Markup:
    """Draw prototype similarities below the diagonal and label correlations above it."""
    count = len(names)
    below = np.tri(count, k=-1, dtype=bool)
    alike, together = _largest(prototypes, below), _largest(labels, below)
    shown = np.where(below, prototypes / alike, labels / together)
    np.fill_diagonal(shown, np.nan)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.set_facecolor("#EFEFEF")
        image = axes.imshow(shown, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
        axes.plot([-0.5, count - 0.5], [-0.5, count - 0.5], color=INK, lw=0.8)
        size = 9.5 if count <= 24 else 8
        axes.set_yticks(range(count), [short(name, 18) for name in names], fontsize=size)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"labels together: up to ±{together:.2f}", loc="right")
        axes.set_xlabel(f"prototypes alike: up to ±{alike:.2f}", loc="left")
        bar = figure.colorbar(image, ax=axes, ticks=(-1, 0, 1), aspect=30, pad=0.02)
        bar.ax.set_yticklabels(["less", "0", "more"])

    label = "prototype similarities below, label correlations above the diagonal"
    height = max(2.6, 1.0 + (0.175 if count <= 24 else 0.15) * count)
    return as_svg(draw, name="similarities", label=label, height=height)


def _largest(table: Float[np.ndarray, "C C"], below: Bool[np.ndarray, "C C"]) -> float:
    """Return the largest value beside the diagonal, without its sign; 1 where there is none."""
    beside = np.abs(table[below])
    return float(np.nanmax(beside)) if np.nan_to_num(beside).any() else 1.0


def embedding_map(
    clips: Float[np.ndarray, "N 2"],
    labels: Bool[np.ndarray, "N C"],
    prototypes: Float[np.ndarray, "C 2"],
    names: Sequence[str],
) -> Markup:
    """Draw clips and prototypes in a plane; the most frequent classes in colours."""
    counts = labels.sum(axis=0)
    frequent = np.argsort(-counts, kind="stable")[: len(_MARKS)]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        of_class = _rarest_of(labels, frequent, counts)
        rest = of_class < 0
        axes.plot(*clips[rest].T, ".", color="#C4C4C4", ms=4, label="other clips", rasterized=True)
        for index, (colour, marker) in zip(frequent, _MARKS):
            some = clips[of_class == index]
            axes.plot(
                *some.T, marker, color=colour, ms=4, alpha=0.8, label=short(str(names[index]), 16),
                rasterized=True,
            )  # fmt: skip
        axes.plot(
            *prototypes.T, "*", color=INK, ms=11, mec="white", mew=0.8, label="prototype", zorder=4
        )
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, columnspacing=1.0)
        figure.draw_without_rendering()
        _name(axes, prototypes, names, np.argsort(-counts, kind="stable")[:MOST_NAMES])

    label = "clips and prototypes in a plane, similar ones close together"
    return as_svg(draw, name="embeddings", label=label, height=5.2)


def _rarest_of(
    labels: Bool[np.ndarray, "N C"], frequent: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Return for each clip the rarest of the frequent classes that it has; -1 if none."""
    found = np.full(len(labels), -1)
    for index in sorted(frequent, key=lambda index: -counts[index]):
        found[labels[:, index]] = index
    return found


def _name(
    axes: "Axes", places: Float[np.ndarray, "C 2"], names: Sequence[str], order: np.ndarray
) -> None:
    """Write names beside their places, but none over another."""
    taken: list[tuple[float, float, float]] = []
    per_point = axes.figure.dpi / 72
    for index in order:
        name = short(str(names[index]), 18)
        x, y = axes.transData.transform(places[index]) / per_point
        width, left = 5.0 * len(name), x + 6
        right_edge = axes.bbox.x1 / per_point
        if left + width > right_edge:
            left = x - 6 - width
        if any(left < b and a < left + width and abs(y - h) < 11 for a, b, h in taken):
            continue
        taken.append((left, left + width, y))
        axes.annotate(
            name, tuple(places[index]), (6 if left > x else -6, -3), textcoords="offset points",
            ha="left" if left > x else "right", fontsize=9, color=INK,
            bbox={"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
