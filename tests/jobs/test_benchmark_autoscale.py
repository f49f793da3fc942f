"""What the benchmark of autoscaling counts, with a cluster and a sweep that take no time."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from jobs.bench import autoscale as bench
from jobs.bench.autoscale import Settings, bench_autoscale
from raymc.errors import ResourceError

NODES = [0, 2, 4, 4, 4, 1, 1, 0]  # in each second; the sweep ends in the sixth
SETTINGS = Settings(epoch_seconds=3.0, share=0.5, price=7200.0, ways=("raymc",))


@contextmanager
def stand_in(shape: Any, extra: object) -> Iterator[Any]:
    """A cluster whose number of nodes follows the seconds."""
    assert (shape.gpu_nodes, shape.node_cpus) == ((0, 4), 2)
    seconds = iter(NODES)
    yield SimpleNamespace(environment={}, gpu_nodes_alive=lambda: next(seconds))


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *, code: int) -> str:
    clock = {"now": 100.0}
    times = SimpleNamespace(
        sleep=lambda seconds: clock.update(now=clock["now"] + seconds),
        monotonic=lambda: clock["now"],
    )

    def spawn(command: list[str], log: Path, **_: object) -> Any:
        out = Path(command[-2])
        (out / "epochs").write_text("0 1\n" * 8)
        log.write_text("no luck")

        def poll() -> int | None:
            return code if clock["now"] > 105 else None

        return SimpleNamespace(poll=poll, kill=lambda: None, wait=lambda: code)

    monkeypatch.setattr(bench, "time", times)
    monkeypatch.setattr(bench, "spawn", spawn)
    monkeypatch.setattr(bench, "LocalCluster", stand_in)
    console = Console(file=io.StringIO(), width=200)
    bench_autoscale(console, SETTINGS, out=folder)
    return (folder / "autoscaling.md").read_text()


def test_hours_of_nodes_and_of_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = run(monkeypatch, tmp_path, code=0)
    figures = json.loads((tmp_path / "autoscaling.json").read_text())["measurements"][0]["figures"]
    assert figures["used"] == pytest.approx([sum(NODES) / 3600])
    assert figures["needed"] == pytest.approx([8 * 3.0 * 0.5 / 3600])
    assert figures["cost"] == pytest.approx([2.0 * sum(NODES)])
    assert figures["nodes"] == [4]
    assert "| raymc tune | 0.003 | 0.004 | 0.75 | 32.000 | 24.000 | 4 | 5 |" in page


def test_a_sweep_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match="the sweep failed: no luck"):
        run(monkeypatch, tmp_path, code=1)
