"""What runs report to Ray's metrics, and the dashboard that shows it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray.dashboard
from commands import ROOT

from raymc.events import EpochEnded, Stepped
from raymc.runtime import gauges
from raymc.runtime.gauges import GAUGES, Gauges


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, ...], float]:
    """What was set, by name and values of tags; a gauge refuses tags that it was not made with."""
    values: dict[tuple[str, ...], float] = {}

    class Gauge:
        def __init__(self, name: str, *, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description
            self.name, self.keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == self.keys
            values[(self.name, *list(tags.values())[1:])] = value

    monkeypatch.setattr(gauges, "Gauge", Gauge)
    monkeypatch.setattr(gauges.ray, "is_initialized", lambda: True)
    return values


def test_a_run_and_a_sweep_report_how_they_go(told: dict[tuple[str, ...], float]) -> None:
    report = Gauges("lessons", workers=2, gpus=0.25)
    report(Stepped(epoch=3, step=10, loss=1.0, samples_per_second=640.0))
    metrics = {"val/mAP": 0.5, "train/waiting": 0.1, "train/loss": 2.0}
    report(EpochEnded(epoch=3, metrics=metrics, is_best=True, seconds=1.0))
    report.trial(0, "running", 60.0)
    report.trial(1, "running", 1800.0)
    report.trial(0, "complete", 5400.0)
    assert told == {
        ("raymc_samples_per_second",): 640.0,
        ("raymc_epoch",): 3,
        ("raymc_waiting_share",): 0.1,
        ("raymc_validation", "val/mAP"): 0.5,
        ("raymc_trials", "running"): 1,
        ("raymc_trials", "complete"): 1,
        ("raymc_trials", "pruned"): 0,
        ("raymc_trials", "failed"): 0,
        ("raymc_worker_hours",): 4.0,
        ("raymc_gpu_hours",): 1.0,
    }
    assert {name for name, *_ in told} == set(GAUGES)


def test_without_ray_nothing_is_reported(
    told: dict[tuple[str, ...], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges.ray, "is_initialized", lambda: False)
    Gauges("lessons", workers=1, gpus=0.0).trial(0, "running", 1.0)
    assert told == {}


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "cluster" / "grafana.json").read_text())
    # Ray's own dashboards say which metrics Ray has.
    folder = Path(ray.dashboard.__file__).parent / "modules" / "metrics" / "dashboards"
    text = "".join(path.read_text() for path in folder.glob("*_panels.py"))
    known = {f"ray_{name}" for name in GAUGES}
    known |= set(re.findall(r"\b(?:ray|autoscaler)_\w+", text))
    asked = {
        name
        for expression in expressions(dashboard)
        for name in re.findall(r"\b(?:ray|autoscaler)_\w+", expression)
    }
    assert asked <= known
    assert {name for name in asked if "raymc" in name} >= {
        f"ray_{name}" for name in GAUGES if name != "raymc_epoch"
    }
    for expression in expressions(dashboard):
        for left, right in ("()", "{}"):
            assert expression.count(left) == expression.count(right)
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"]))) <= variables
