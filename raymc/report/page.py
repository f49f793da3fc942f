"""What a page is made of, and the page as HTML: sections of tables, figures and notes.

Imports jinja2 only. Whatever comes from users passes the template's escaping; figures alone
are markup already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it shows.
        key: What its column is sorted by; None sorts last.
        bar: Length in [0, 1] of a bar behind the text, if it has one.
    """

    text: str
    key: float | int | str | None = None
    bar: float | None = None


@dataclass(frozen=True)
class Table:
    """A table; a click on a column's head sorts it.

    Attributes:
        caption: What it holds; read out by screen readers, and shown above it.
        heads: Titles of the columns.
        rows: The cells of each row.
        numeric: Columns aligned to the right.
        marked: Row that stands out, if one does.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: frozenset[int] = frozenset()
    marked: int | None = None
    kind: str = "table"


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


Part = Table | Figure | Note


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


def number(value: float | int, text: str, *, bar: float | None = None) -> Cell:
    """Return a cell that is sorted as a number; NaN sorts last."""
    return Cell(text, key=None if value != value else value, bar=bar)


def text(shown: str) -> Cell:
    """Return a cell that is sorted as text."""
    return Cell(shown, key=shown)


def percent(share: float) -> str:
    """Return a share as a percentage; a dash where there is none."""
    return "–" if share != share else f"{100 * share:.1f}\u00a0%"


def render(page: Page) -> str:
    """Return the page as one HTML document that loads nothing."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("raymc.report").joinpath("page.html").read_text("utf-8")
    )
    return template.render(page=page)
