"""All benchmarks one after the other, and one page that joins theirs.

Top layer. Each runs in a process of its own, as its own command, so that none feels what another
has left in memory, and one that is killed doesn't end the rest.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from jobs.bench.measure import machine_line

INDEX = "README.md"


def run_all(given: Mapping[str, Sequence[str]], out: Path, console: Console) -> list[str]:
    """Run benchmarks briefly, and write their pages, joined, to `out`/README.md.

    The page is written anew after each, so that it holds what there is when the rest is stopped.

    Args:
        given: Options of each, by name; in the order in which they run.
        out: Folder for the pages and numbers of all.
        console: Where it is told which one runs.

    Returns:
        The names of those that failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    pages: list[str] = []
    for name, options in given.items():
        console.rule(name, style="dim")
        page = out / f"{name}.md"
        page.unlink(missing_ok=True)  # of an earlier run
        code = _run_apart(name, *options, "--brief", "--out", str(out))
        if code:
            failed.append(name)
            console.print(f"{name} failed with exit code {code}; the others go on")
        told = f"## {name.capitalize()}\n\nFailed with exit code {code}.\n" if code else ""
        pages.append(told + (page.read_text() if page.exists() else ""))
        (out / INDEX).write_text(
            "\n".join(["# Benchmarks of raymc\n", f"{machine_line()}\n", *pages])
        )
    console.print(f"{out / INDEX}", highlight=False, soft_wrap=True)
    return failed


def _run_apart(name: str, *options: str) -> int:
    """Run a benchmark's command in a process of its own; its exit code."""
    command = [sys.executable, "-m", "jobs.bench", name, *options]
    return subprocess.run(command, check=False).returncode
