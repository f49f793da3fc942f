"""What a person typed is what the terminal shows: no markup, no emoji, no control characters."""

import ast
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

import raymc
from raymc.terminal import make_console, one_line, plain, print_line, visible

# What rich, a terminal or a shell would take for something else.
ODD = ["[/x]", "math [easy]", "[abc]", "[bold]", ":car:", "\\[x]", "[@click=quit]x[/]", "{x}", "%s"]
MODULES = sorted(Path(raymc.__file__).parent.rglob("*.py"))
# What interprets texts, or makes a console that does.
_MAKERS = {"Console", "Text", "from_markup", "from_ansi", "render_markup", "Markdown", "Syntax"}


@pytest.mark.parametrize("text", ODD)
def test_a_text_is_shown_as_it_is(text: str) -> None:
    ours, any_other = StringIO(), StringIO()
    console = make_console(file=ours, width=100)
    console.print(text)
    table = Table(text, title=text)
    table.add_row(text)
    console.print(table)
    console.rule(text)
    assert ours.getvalue().count(text) == 5
    other = Console(file=any_other, width=100)
    print_line(other, text)
    other.print(plain(text))
    assert any_other.getvalue() == f"{text}\n{text}\n"


def test_control_characters_are_seen_and_not_sent() -> None:
    shown = StringIO()
    console = make_console(file=shown, width=100, force_terminal=True)
    console.print("a\x1b[31mb\x9bc\rd")
    table = Table()
    table.add_row("a\x1b]0;title\x07b")
    console.print(table)
    assert "a\\x1b[31mb\\x9bc\\rd\n" in shown.getvalue()
    assert "a\\x1b]0;title\\x07b" in shown.getvalue()
    assert not set("\x9b\r\x07") & set(shown.getvalue())
    assert visible("é 数 🎓\nx") == "é 数 🎓\nx"
    assert one_line("a\nb\u2028c\ud800 ") == "a\\nb\\u2028c\\ud800"


def test_texts_reach_the_terminal_in_no_other_way() -> None:
    for module in MODULES:
        calls = [
            one for one in ast.walk(ast.parse(module.read_text())) if isinstance(one, ast.Call)
        ]
        for call in calls if module.name != "terminal.py" else ():
            assert not (wrong := _wrong(call)), f"{module}:{call.lineno}: {wrong}"


def _wrong(call: ast.Call) -> str:
    """Return what is wrong with a call that brings texts to the terminal; empty if nothing is."""
    function, given = call.func, {one.arg: one.value for one in call.keywords}
    is_method = isinstance(function, ast.Attribute)
    name = function.attr if is_method else getattr(function, "id", "")
    if name in _MAKERS:
        return f"raymc.terminal makes consoles and texts, not {name}"
    if name == "TextColumn" and getattr(given.get("markup"), "value", None) is not False:
        return "this column interprets markup"
    if name != "TextColumn" and "markup" in given:
        return "the console decides about markup"
    is_text = name == "print" and isinstance(call.args[0], ast.JoinedStr | ast.Constant)
    return "print_line prints texts" if is_text or (name == "print" and not is_method) else ""
