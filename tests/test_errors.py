import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import raymc
from raymc.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("the disk\nis full"), "the disk"),
        (ValueError("one\r\ntwo"), "one"),
        (KeyError("id"), "'id'"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("\nsecond"), "RuntimeError"),
    ],
)
def test_an_error_in_a_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def texts_of(tree: ast.Module) -> Iterator[str]:
    """All texts in a file's code, without docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = list(ast.walk(tree))
    firsts = [node.body[0] for node in nodes if isinstance(node, documented) and node.body]
    docs = {id(first.value) for first in firsts if isinstance(first, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@pytest.mark.slow
def test_no_message_advises_deleting_data() -> None:
    advice = re.compile(
        r"\b(delete|erase|unlink|discard|wipe|remove (it|them|this|that|one|the))\b|\brm -", re.I
    )
    allowed = {
        "data/labels.py": r"name it or remove it|; remove one of them",  # names, not files
        "runtime/submit.py": r"remove it there",  # a password
        "cli/jobs.py": r"delete rayjob",  # which ends a job
        "runtime/kuberay.py": r"^delete$|delete rayjob",
    }
    found = []
    for file in sorted(Path(raymc.__file__).parent.rglob("*.py")):
        place = str(file.relative_to(Path(raymc.__file__).parent))
        for text in texts_of(ast.parse(file.read_text())):
            known = allowed.get(place)
            if advice.search(text) and not (known and re.search(known, text)):
                found.append(f"{place}: {text}")
    assert found == []
