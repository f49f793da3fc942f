"""What is recorded of runs, against a real MLflow store."""

from pathlib import Path

import pytest
from tracking_cases import runs_of, start, steps

from raymc.addresses import keep_password
from raymc.config import TrackingConfig
from raymc.errors import ResourceError
from raymc.runtime.provenance import Code
from raymc.tracking import EndState, list_runs, open_tracker, records


def test_a_run_holds_everything_that_was_recorded(folder: str, config: TrackingConfig) -> None:
    with open_tracker(config, folder) as tracker:
        tracker.start_run("sweep", key="s", params={"search.trials": 3}, tags={})
        run = tracker.start_run(
            "trial 0",
            key="s/0",
            parent="s",
            params={"loss.margin": 0.2, "loss.two_way": True, "loss.name": None},
            tags={"raymc.trial": "0", "dataset": "abc"},
        )
        tracker.log_epoch(run, 1, {"train/loss": 2.0, "val/mAP": 0.5}, is_best=True)
        tracker.log_epoch(run, 2, {"train/loss": 1.0, "val/mAP": 0.4})
        tracker.log_json(run, "config.json", {"b": 1, "a": [2]})
        tracker.log_text(run, "report/labels.txt", "münze\n")
        tracker.set_note(run, "# Trial")
        tracker.end_run(run, "complete", metrics={"cost/seconds": 7.5})
        assert tracker.close() == 0

    parent, child = sorted(runs_of(tracker), key=lambda run: run.data.tags["raymc.key"])
    assert child.info.run_name == "trial 0"
    assert child.info.status == "FINISHED"
    assert child.data.params == {"loss.margin": "0.2", "loss.two_way": "True", "loss.name": "None"}
    assert child.data.metrics == {
        "train/loss": 1.0,
        "val/mAP": 0.4,
        "best/mAP": 0.5,
        "epoch": 2.0,
        "cost/seconds": 7.5,
    }
    assert steps(child, "train/loss", tracker.uri) == [(1, 2.0), (2, 1.0)]
    tags = child.data.tags
    assert tags["mlflow.parentRunId"] == parent.info.run_id == tracker.run_id("s")
    assert tags["mlflow.note.content"] == "# Trial"
    assert (tags["raymc.key"], tags["raymc.state"], tags["dataset"]) == ("s/0", "complete", "abc")
    artifacts = Path(folder, "artifacts", child.info.run_id, "artifacts")
    assert (artifacts / "config.json").read_text() == '{\n  "a": [\n    2\n  ],\n  "b": 1\n}'
    assert (artifacts / "report/labels.txt").read_text(encoding="utf-8") == "münze\n"


def test_the_code_is_recorded(
    folder: str, config: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = Code(commit="c0ffee" * 6, dirty=True, archive="5ea1" * 16)
    monkeypatch.setattr(records, "current_code", lambda: code)
    with open_tracker(config, folder) as tracker:
        start(tracker)
    (run,) = runs_of(tracker)
    assert run.data.tags["mlflow.source.git.commit"] == code.commit
    assert run.data.tags["mlflow.source.git.dirty"] == "true"
    assert run.data.tags["raymc.archive"] == code.archive
    (recorded,) = list_runs(tracker.uri, config.experiment)
    assert recorded.commit == "c0ffeec0+"
    monkeypatch.setattr(records, "current_code", Code)
    assert not {"mlflow.source.git.commit", "raymc.archive"} & set(records.source_tags())


def test_a_restart_goes_on_with_the_same_run(folder: str, config: TrackingConfig) -> None:
    with open_tracker(config, folder) as tracker:
        run = start(tracker, margin=0.1)
        for epoch in (1, 2):
            tracker.log_epoch(run, epoch, {"val/mAP": epoch / 10})
        tracker.end_run(run, "stopped")
    assert runs_of(tracker)[0].info.status == "KILLED"

    with open_tracker(config, folder) as tracker:
        run = start(tracker, margin=0.9, depth=2)
        tracker.run_id(run)
        assert runs_of(tracker)[0].info.status == "RUNNING"
        assert runs_of(tracker)[0].data.tags["raymc.state"] == "running"
        for epoch in (2, 3):
            tracker.log_epoch(run, epoch, {"val/mAP": epoch * 100.0})
        tracker.end_run(run, "complete")
        assert tracker.close() == 0

    (only,) = runs_of(tracker)
    assert only.info.status == "FINISHED"
    assert only.data.params == {"margin": "0.1", "depth": "2"}
    assert steps(only, "val/mAP", tracker.uri) == [(1, 0.1), (2, 0.2), (3, 300.0)]
    assert steps(only, "epoch", tracker.uri) == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("complete", "FINISHED"),
        ("pruned", "KILLED"),
        ("failed", "FAILED"),
        ("stopped", "KILLED"),
    ],
)
def test_ends_are_told_apart(
    state: EndState, status: str, folder: str, config: TrackingConfig
) -> None:
    with open_tracker(config, folder) as tracker:
        tracker.end_run(start(tracker), state)
    (run,) = runs_of(tracker)
    assert (run.info.status, run.data.tags["raymc.state"]) == (status, state)


@pytest.mark.slow
def test_what_mlflow_does_not_take_is_made_fit(folder: str, config: TrackingConfig) -> None:
    params = {f"p{number}": number for number in range(150)}
    metrics = {f"val/AP/{number}": number / 2000 for number in range(1500)}
    with open_tracker(config, folder) as tracker:
        run = start(tracker, "it's", long="x" * 7000, uri="postgresql://me:secret@db/x", **params)
        tracker.log_epoch(run, 1, {**metrics, "val/AP/plus, minus": 0.5, "val/R80": float("nan")})
        tracker.set_note(run, "n" * 9000)
        keep_password("http://me:secret@host")
        tracker.log_text(run, "a.yaml", "uri: http://me:secret@host")
        assert tracker.close() == 0
    assert run == "it_s"
    (only,) = runs_of(tracker)
    assert len(only.data.params) == 152
    assert only.data.params["long"] == "x" * 5999 + "…"
    assert only.data.params["uri"] == "postgresql://me@db/x"
    assert only.data.tags["mlflow.note.content"] == "n" * 7999 + "…"
    assert len(only.data.metrics) == 1503
    assert only.data.metrics["val/AP/plus_ minus"] == 0.5
    assert only.data.metrics["val/R80"] != only.data.metrics["val/R80"]
    text = Path(folder, "artifacts", only.info.run_id, "artifacts", "a.yaml").read_text()
    assert text == "uri: http://me@host"


def test_run_id_says_when_the_run_never_came(folder: str, config: TrackingConfig) -> None:
    with (
        open_tracker(config, folder) as tracker,
        pytest.raises(ResourceError, match=r"run b did not reach MLflow at sqlite.* within 0.01 s"),
    ):
        tracker.run_id("b", timeout_seconds=0.01)


def test_a_run_that_has_ended_may_be_left_alone(folder: str, config: TrackingConfig) -> None:
    with open_tracker(config, folder) as tracker:
        run = start(tracker, margin=0.1)
        tracker.log_epoch(run, 1, {"val/mAP": 0.1})
        tracker.end_run(run, "pruned", metrics={"cost/seconds": 1.0})
    (ended,) = runs_of(tracker)

    with open_tracker(config, folder) as tracker:
        run = tracker.start_run("a", key="a", params={"depth": 2}, tags={}, reopen=False)
        tracker.log_epoch(run, 2, {"val/mAP": 0.2})
        tracker.end_run(run, "complete", metrics={"cost/seconds": 2.0})
        assert tracker.run_id(run) == ended.info.run_id
        assert tracker.close() == 0
    (same,) = runs_of(tracker)
    assert same.to_dictionary() == ended.to_dictionary()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_run_that_has_not_ended_is_gone_on_with(
    is_known: bool, folder: str, config: TrackingConfig
) -> None:
    with open_tracker(config, folder) as tracker:
        if is_known:
            tracker.log_epoch(start(tracker), 1, {"val/mAP": 0.1})
    with open_tracker(config, folder) as tracker:
        run = tracker.start_run("a", key="a", params={}, tags={}, reopen=False)
        for epoch in (1, 2):
            tracker.log_epoch(run, epoch, {"val/mAP": epoch / 10})
        tracker.end_run(run, "complete")
    (only,) = runs_of(tracker)
    assert only.info.status == "FINISHED"
    assert steps(only, "val/mAP", tracker.uri) == [(1, 0.1), (2, 0.2)]


def test_a_dataset_is_recorded_once(folder: str, config: TrackingConfig) -> None:
    with open_tracker(config, folder) as tracker:
        run = start(tracker)
        for _ in range(2):  # as after a restart
            source = "s3://me:secret@host/mine"
            tracker.log_dataset(run, name="mine", digest="0123456789", source=source, rows={"a": 3})
        assert tracker.close() == 0
    (only,) = runs_of(tracker)
    (given,) = only.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("mine", "01234567")
    assert given.dataset.source == '{"uri": "s3://me@host/mine"}'
    assert given.dataset.profile == '{"a": 3}'
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


def test_a_note_links_to_the_comparison(folder: str, config: TrackingConfig) -> None:
    with open_tracker(config, folder) as tracker:
        for key in ("a", "b", "c"):
            start(tracker, key)
        tracker.set_note("a", "first\n\nrest", compare=["c", "b"])
        tracker.set_note("b", "alone", compare=["c"])
        assert tracker.close() == 0
    notes = {
        run.data.tags["raymc.key"]: run.data.tags.get("mlflow.note.content")
        for run in runs_of(tracker)
    }
    runs = f"%5B%22{tracker.run_id('c')}%22%2C%20%22{tracker.run_id('b')}%22%5D"
    page = f"#/compare-runs?runs={runs}&experiments=%5B%22{tracker.experiment_id}%22%5D"
    link = f"[Compare the trials]({page}&workflowType=machine_learning)"
    assert notes == {"a": f"first\n\n{link}\n\nrest", "b": "alone", "c": None}
