"""What the terminal shows of texts that people typed: exactly these, whatever they contain.

Labels, ids, names, paths and errors may look like rich's markup (`[red]`, `[/x]`), like its emoji
(`:car:`), or hold control characters that would steer the terminal. So there is one console, which
interprets nothing, and every text that may be a person's enters a table through `plain`. Passwords
of addresses are not shown. Only this file makes consoles and rich's texts; a test says so.
"""

import sys
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.text import Text

from raymc.addresses import redacted

# Control characters but for the line feed, and the halves of characters that can't be written.
_UNSEEN = [*range(0x0A), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)]
_ESCAPES = {code: ascii(chr(code))[1:-1] for code in _UNSEEN}
_LINE_ESCAPES = {**_ESCAPES, **{code: ascii(chr(code))[1:-1] for code in (0x0A, 0x2028, 0x2029)}}


class _Console(Console):
    """A console that takes texts as they are."""

    def __init__(self, **given: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **given)

    def render_str(self, text: str, **given: Any) -> Text:
        """Return a text without markup, its control characters visible."""
        return super().render_str(visible(text), **{**given, "markup": False, "emoji": False})


def make_console(**given: Any) -> Console:
    """Return a console that interprets nothing in a text; `given` goes to rich's `Console`.

    Characters that the terminal's encoding lacks are written as escapes.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return _Console(**given)


def plain(text: object, style: str = "", **given: Any) -> Text:
    """Return a text for rich to show as it is; `given` goes to rich's `Text`."""
    return Text(visible(str(text)), style=style, **given)


def print_line(console: Console, line: str, style: str = "") -> None:
    """Print a line as it is, without wrapping it."""
    console.print(plain(line, style), soft_wrap=True)


def visible(text: str) -> str:
    r"""Return a text whose control characters can be seen, such as `\x1b`; line feeds stay."""
    return redacted(text).translate(_ESCAPES)


def one_line(text: str) -> str:
    r"""Return a text on one line, whose control characters can be seen, line feeds as `\n`."""
    return redacted(text).strip().translate(_LINE_ESCAPES)
