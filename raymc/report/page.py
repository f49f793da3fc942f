"""The one page template: sections of tables, figures and notes as self-contained HTML.

All texts pass the template's escaping; only figures are markup already. Tables and notes can be
printed in the terminal too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table as RichTable
from rich.text import Text

from raymc.terminal import plain, visible

STYLES = {"better": "green", "worse": "red"}  # of cells in the terminal; base.html has its own


@dataclass(frozen=True)
class Cell:
    """A cell of a table, whose column is sorted by `key`; None sorts last.

    `bar` is the length in [0, 1] of a bar behind the text. The style `better` or `worse` colours
    it.
    """

    text: str
    key: float | int | str | None = None
    bar: float | None = None
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table for a page, where a click on a column's head sorts it, or for the terminal.

    The caption stands above it, and is read out by screen readers. `numeric` columns are aligned
    to the right; the row `marked` stands out.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: frozenset[int] = frozenset()
    marked: int | None = None
    kind: str = "table"

    def in_terminal(self) -> RichTable:
        """Return the table for rich to print."""
        table = RichTable(
            title=plain(self.caption), title_justify="left", title_style="bold", box=None,
            pad_edge=False, padding=(0, 2, 0, 0), header_style="italic",
        )  # fmt: skip
        for at, head in enumerate(self.heads):
            justify = "right" if at in self.numeric else "left"
            table.add_column(plain(head), justify=justify, overflow="fold", min_width=6)
        for row in self.rows:
            table.add_row(*(plain(cell.text, STYLES.get(cell.style, "")) for cell in row))
        return table


@dataclass(frozen=True)
class Figure:
    """A drawing, and the sentence that says how to read it."""

    svg: Markup
    caption: str
    kind: str = "figure"


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str
    kind: str = "note"

    def in_terminal(self) -> Text:
        """Return the paragraph for rich to print."""
        return plain(self.text)


@dataclass(frozen=True)
class Block:
    """Markup of a page's own."""

    markup: Markup
    kind: str = "block"


Part = Table | Figure | Note | Block


@dataclass(frozen=True)
class Section:
    """A part of the page that the table of contents names."""

    anchor: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """The page: a title, what it says in plain words, and its sections."""

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]
    about: str


def number(value: float | int, text: str, *, bar: float | None = None, style: str = "") -> Cell:
    """Return a cell that is sorted as a number; NaN sorts last."""
    return Cell(text, key=None if value != value else value, bar=bar, style=style)


def text(shown: str) -> Cell:
    """Return a cell that is sorted as text."""
    return Cell(shown, key=shown)


def render(page: Page) -> str:
    """Return the page as one HTML document that loads nothing."""
    return render_template("page.html", page=page)


def render_template(name: str, **given: Any) -> str:
    """Return one of this room's templates, filled in; texts are escaped and shown as typed."""
    environment = Environment(
        loader=PackageLoader("raymc.report", ""),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(**given)
