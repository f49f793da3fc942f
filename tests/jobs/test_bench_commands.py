"""`python -m jobs.bench`: options from settings, errors in a line, one page of all benchmarks."""

import io
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.__main__ import BENCHMARKS, IN_ALL, bench, run_all
from jobs.bench.measure import publish


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(bench, [*map(str, arguments)])


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """Of a benchmark that tells them alone."""

    sizes: tuple[int, ...] = Field(default=(1, 2), description="How large.")
    rounds: int = Field(default=5, ge=1, description="How often.")


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A benchmark of that name that takes no time."""

    def bench(console: Console, settings: Settings, *, out: Path | None = None) -> None:
        publish("Growth", f"{settings.sizes} {settings.rounds}", [], console, out)

    module = ModuleType("jobs.bench.growth")
    vars(module).update(Settings=Settings, BRIEF={"rounds": 1, "sizes": (7,)}, bench_growth=bench)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.usefixtures("growth")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "(1, 2) 5"),
        (["--size", "3", "--size", "4", "--rounds", "2"], "(3, 4) 2"),
        (["--brief"], "(7,) 1"),
        (["--brief", "--rounds", "9"], "(7,) 9"),
    ],
)
def test_settings_are_options_and_win_over_the_brief_ones(
    arguments: list[str], told: str, tmp_path: Path
) -> None:
    result = run("growth", *arguments, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "growth.md").read_text()
    assert page.startswith(f"## Growth\n\n{told}\n")
    assert page.strip() in result.output
    machine = json.loads((tmp_path / "growth.json").read_text())["machine"]
    assert {"processor", "cores", "torch", "commit", "command", "date"} <= machine.keys()


@pytest.mark.usefixtures("growth")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "Invalid value for '--rounds': 0 is not in the range x>=1."),
        (["--size", "x"], "Invalid value for '--size': 'x' is not a valid integer."),
    ],
)
def test_a_wrong_setting_is_told_by_its_option(arguments: list[str], message: str) -> None:
    result = run("growth", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"raymc: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_package_is_told_with_what_installs_it(
    growth: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bench(*_: object, **__: object) -> None:
        import_module("litdata_of_nobody")

    vars(growth)["bench_growth"] = bench
    line = (
        "raymc: litdata_of_nobody isn't installed; `python -m jobs.bench growth` needs it: "
        "pip install 'raymc[bench]'\n"
    )
    result = run("growth")
    assert (result.exit_code, result.stderr) == (2, line)
    monkeypatch.setitem(sys.modules, growth.__name__, None)
    assert run("growth", "--help").exit_code == 2


def test_listing_the_benchmarks_imports_none_of_them() -> None:
    program = (
        "import sys; from jobs.bench.__main__ import bench\n"
        "bench(['--help'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'numpy', 'jobs.bench.loss') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert all(f"\n  {name} " in done.stdout for name in (*BENCHMARKS, "all", "grid", "noise"))
    assert done.stdout.splitlines()[-1] == "[]"


def test_all_continues_when_one_fails_and_joins_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ingest.md").write_text("an earlier run's")

    def run_apart(name: str, *options: str) -> int:
        assert options[-3:] == ("--brief", "--out", str(tmp_path))
        if name != "ingest":
            page = f"## {name.capitalize()}\n\n| a table | {' '.join(options[:-3])} |\n"
            (tmp_path / f"{name}.md").write_text(page)
        return 2 if name == "ingest" else 0

    monkeypatch.setattr("jobs.bench.__main__._run_apart", run_apart)
    told = io.StringIO()
    given = {"loss": (), "ingest": (), "extract": ("--media", "clips")}
    assert run_all(given, tmp_path, Console(file=told)) == ["ingest"]
    index = (tmp_path / "README.md").read_text()
    titles = [line for line in index.splitlines() if line.startswith("#")]
    assert titles == ["# Benchmarks of raymc", "## Loss", "## Ingest", "## Extract"]
    assert "| a table | --media clips |" in index
    assert "Failed with exit code 2." in index
    assert "an earlier run's" not in index
    assert all(word in index for word in ("processor ", "torch ", "commit ", "command ", "date "))
    assert "ingest failed with exit code 2" in told.getvalue()


def test_all_leaves_extract_out_without_media(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, tuple[str, ...]]] = []

    def run_nothing(given: dict[str, tuple[str, ...]], *_: object) -> list[str]:
        seen.append(given)
        return ["loss"] if len(seen) == 1 else []

    monkeypatch.setattr("jobs.bench.__main__.run_all", run_nothing)
    assert run("all", "--out", tmp_path).exit_code == 1
    assert run("all", "--out", tmp_path, "--media", "clips/").exit_code == 0
    assert list(seen[0]) == [name for name in IN_ALL if name != "extract"]
    assert seen[1]["extract"] == ("--media", "clips/")


def test_a_benchmark_runs_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "sitecustomize.py"  # replaces a benchmark of the child by a quick one
    program.write_text(
        "import os, sys\n"
        "from pydantic.dataclasses import dataclass\n"
        "@dataclass(kw_only=True)\n"
        "class Settings:\n"
        "    rounds: int = 5\n"
        "def bench_loss(console, settings, *, out):\n"
        "    (out / 'loss.md').write_text(f'{os.getpid()} {settings.rounds}')\n"
        "BRIEF = {'rounds': 1}\n"
        "sys.modules['jobs.bench.loss'] = sys.modules[__name__]\n"
    )
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    assert run_all({"loss": ()}, tmp_path, Console(file=io.StringIO())) == []
    pid, rounds = (tmp_path / "README.md").read_text().split()[-2:]
    assert (pid != str(os.getpid()), rounds) == (True, "1")
