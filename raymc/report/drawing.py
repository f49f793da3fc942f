"""Figures as inline SVG: one size, one style, colours that colour-blind readers tell apart.

matplotlib is imported inside functions, because it takes a second to load.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from raymc.terminal import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# M. Okabe and K. Ito 2008, Color Universal Design, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, PINK, SKY, RED = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
)  # fmt: skip
GREY, INK = "#8A8A8A", "#222222"
SEQUENTIAL, DIVERGING = "cividis", "PuOr"
WIDTH = 5.0  # inches: on a phone's 400 px, text of 10 pt is still 10 px high
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, readable aloud, in the page's font
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "text.parse_math": False,
    "axes.unicode_minus": False,
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _XLINK)


def as_svg(draw: Callable[["Figure"], None], *, name: str, label: str, height: float) -> Markup:
    """Return the figure that `draw` draws on as an SVG element, `height` inches high.

    The name, unique in the page, prefixes the figure's ids; screen readers read the label aloud.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        file = BytesIO()
        figure.savefig(file, format="svg", dpi=150, metadata={"Date": None})
    return Markup(_inline(file.getvalue(), name, label))


def _inline(svg: bytes, name: str, label: str) -> str:
    root = ElementTree.fromstring(visible(svg.decode()))  # XML has no control characters
    for parent in (root, *root.findall(f"{{{_SVG}}}defs")):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key.endswith("href") and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, re.sub(r"url\(#", f"url(#{name}-", value))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def short(name: str, longest: int = 22) -> str:
    """Return a name, shortened in the middle to fit beside an axis."""
    return name if len(name) <= longest else f"{name[: longest - 8]}…{name[-7:]}"


def whole_numbers(axes: "Axes", *, which: str = "x") -> None:
    """Put at most eight ticks, all at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def percent(axes: "Axes", *, which: str = "y") -> None:
    """Show shares on an axis as percentages, with as many decimals as its ticks need."""
    from matplotlib.ticker import Formatter

    class Percent(Formatter):
        def __call__(self, value: float, pos: int | None = None) -> str:
            return percentages([float(value)])[0]

        def format_ticks(self, values: Iterable[float]) -> list[str]:
            return percentages([float(value) for value in values])

    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(Percent())


def log_counts(axes: "Axes") -> None:
    """Give the x axis a logarithmic scale for numbers of things, with ticks at 1, 2, 5, 10, 20."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def percentages(shares: Sequence[float]) -> list[str]:
    """Return shares as percentages, all with the fewest decimals that round none: `97.5%`."""
    values = [100 * share for share in shares]
    digits = next((n for n in range(4) if all(abs(round(x, n) - x) < 1e-6 for x in values)), 4)
    return [f"{value:.{digits}f}%" for value in values]
