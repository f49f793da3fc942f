"""Commands that were interrupted, at any moment and in any way, end in order and are resumed."""

import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from drivers import RAYMC, Interruptible, interruptible, wait_until, write_config
from mlflow import MlflowClient
from pages import draw_nothing
from rich.console import Console
from tiny import fit_here
from videos import write_video

from raymc.cli import demo
from raymc.cli.main import main
from raymc.cli.runs import run_train
from raymc.config import Config, override
from raymc.data.shards import Dataset, open_dataset
from raymc.events import EpochEnded
from raymc.search.study import read_study, trials_in
from raymc.search.trials import winner
from raymc.tracking import tracking_uri
from raymc.tracking.records import KEY_TAG
from raymc.training.bundle import WEIGHTS, save_bundle
from raymc.training.runs import BUNDLE, Run, open_run, read_run


@pytest.mark.slow
def test_a_run_interrupted_while_its_model_is_logged_needs_only_the_rest(
    tiny_config: Config,
    tiny: Dataset,
    tiny_bundle: Path,
    runs_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, printed = f"sqlite:///{runs_folder / 'mlflow.db'}", StringIO()
    names = {"tracking.experiment": "cut", "tracking.register_as": "cut", "tracking.uri": uri}
    config = override(tiny_config, {**names, "run.folder": str(tmp_path), "run.name": "cut"})
    run = open_run(config, dataset=tiny.manifest.digest())
    shutil.copytree(tiny_bundle, run.folder / BUNDLE)
    run.begin()
    console = Console(file=printed, width=200)

    def refuse(*_: object, **__: object) -> None:
        # Libraries replace the KeyboardInterrupt of our handler.
        monkeypatch.setattr("raymc.runtime.interruption._state.signal", 2)
        raise OSError("a call was interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", refuse)
        with pytest.raises(KeyboardInterrupt):
            run_train(config, console)
    monkeypatch.setattr("raymc.runtime.interruption._state.signal", 0)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("cut")
    assert experiment is not None
    [before] = client.search_runs([experiment.experiment_id])
    assert (before.info.status, before.data.tags["raymc.state"]) == ("KILLED", "stopped")

    assert run_train(config, console) == run.folder / BUNDLE
    client.delete_registered_model_alias("cut", "champion")
    assert run_train(config, console) == run.folder / BUNDLE
    assert "run cut is finished" in printed.getvalue()
    [after] = client.search_runs([experiment.experiment_id])
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert after.data.tags["raymc.state"] == "complete"
    assert len(client.search_logged_models([experiment.experiment_id])) == 1
    [version] = client.search_model_versions("name = 'cut'")
    assert version.run_id == after.info.run_id
    assert not client.get_registered_model("cut").aliases

    run.end(is_recorded=False)  # as if MLflow had been away
    assert not run.is_finished
    done = CliRunner().invoke(main, ["replay", str(run.folder)])
    assert done.exception is None, done.exception
    assert done.output.splitlines() == [
        "cut: MLflow has 0 records, and the model models:/cut@champion"
    ]
    assert run.is_finished
    assert len(client.search_model_versions("name = 'cut'")) == 1


def weights_of(config: Config, folder: Path) -> tuple[dict[int, float], bytes]:
    """Train in this process, uninterrupted; returns each epoch's value, and the best weights."""
    values, bundle = dict[int, float](), folder / "uninterrupted"

    def keep(event: EpochEnded, made: Path | None) -> None:
        values[event.epoch] = event.metrics[config.train.monitor]
        if event.is_best and made is not None:
            save_bundle(made, bundle)

    fit_here(open_dataset(config.data.path), config, keep)
    return values, (bundle / WEIGHTS).read_bytes()


def check_run(folder: Path) -> None:
    """The weights are those of an uninterrupted run."""
    run = read_run(folder / "runs/run")
    assert run.is_finished
    _, weights = weights_of(run.config, folder)
    assert (run.folder / BUNDLE / WEIGHTS).read_bytes() == weights
    check_registered(run.config)


def check_sweep(folder: Path, *, place: str = "runs/sweep") -> None:
    """Each trial is there once, with the values of an uninterrupted training of its settings."""
    run = read_run(folder / place)
    assert run.is_finished
    trials = trials_in(read_study(run), run)
    assert len(trials) == run.config.search.trials
    for trial in trials:
        values, weights = weights_of(override(run.config, dict(trial.params)), folder)
        known = {epoch.number: epoch.value for epoch in trial.epochs}
        assert known == {epoch: values[epoch] for epoch in range(1, trial.epoch + 1)}
        if trial.number == winner(trials).number:
            assert (run.folder / BUNDLE / WEIGHTS).read_bytes() == weights
    statuses = statuses_of(run)
    assert statuses.pop(run.id) == "FINISHED"
    ends = {"complete": "FINISHED", "pruned": "KILLED"}
    assert statuses == {f"{run.id}/{one.number}": ends[one.state] for one in trials}
    check_registered(run.config)


def statuses_of(run: Run) -> dict[str, str]:
    """What MLflow says of a sweep and its trials, by key."""
    client = MlflowClient(tracking_uri(run.config.tracking, run.config.run.folder))
    experiment = client.get_experiment_by_name(run.config.tracking.experiment)
    assert experiment is not None
    recorded = {
        one.data.tags[KEY_TAG]: one for one in client.search_runs([experiment.experiment_id])
    }
    return {key: one.info.status for key, one in recorded.items() if key.startswith(run.id)}


def check_registered(config: Config) -> None:
    """The model is registered once, and has the alias."""
    client = MlflowClient(tracking_uri(config.tracking, config.run.folder))
    name = config.tracking.register_as
    [version] = client.search_model_versions(f"name = '{name}'")
    assert client.get_registered_model(name).aliases == {config.tracking.alias: version.version}


def check_files(folder: Path, *, made: str, words: tuple[str, ...]) -> None:
    """All files are those of an uninterrupted command."""
    again = [word.format(folder=folder, out=folder / "again") for word in words]
    done = CliRunner().invoke(main, again, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert contents(folder / made) == contents(folder / "again")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".media.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def check_demo(folder: Path) -> None:
    """The sweep is whole, and so are the predictions."""
    check_sweep(folder, place="demo/runs/demo")
    bundle, data = folder / "demo/runs/demo/bundle", folder / "demo/digits"
    words = ("predict", str(bundle), str(data), "--out", "{out}")
    check_files(folder, made="demo/predictions", words=words)


@dataclass(frozen=True)
class Case:
    """A command that writes `out`, and what must be there once it has come to its end.

    How far it has come is seen by files: `early` is long before its end, `late` may be at its end.
    """

    words: tuple[str, ...]
    out: str
    early: tuple[str, ...]
    late: tuple[str, ...]
    check: Callable[[Path], None]


EXTRACT = ("extract", "{folder}/videos", "--out", "{out}", "extract.shard_rows=2")
EXTRACT += ("extract.visual=patches",)
PREDICT = ("predict", "{folder}/bundle", "{folder}/data", "--out", "{out}", "--split", "train")
CASES = {
    "train": Case(
        ("train", "{folder}/train.yaml"),
        "runs/run",
        ("runs/run/run.json", "runs/run/unfinished"),
        ("runs/run/attempts.json", "runs/run/checkpoint_*", "runs/run/bundle"),
        check_run,
    ),
    "tune": Case(
        ("tune", "{folder}/tune.yaml"),
        "runs/sweep",
        ("runs/sweep/run.json", "runs/sweep/study.db"),
        ("runs/sweep/trials/*/trial-0000/checkpoint_*", "runs/sweep/bundle"),
        check_sweep,
    ),
    "extract": Case(
        EXTRACT,
        "shards",
        ("shards/.media.json",),
        ("shards/train/*.parquet",),
        partial(check_files, made="shards", words=EXTRACT),
    ),
    "predict": Case(
        PREDICT,
        "predictions",
        ("data",),  # there from the start
        (".predictions.parts/*.parquet",),
        partial(check_files, made="predictions", words=PREDICT),
    ),
    "demo": Case(
        ("demo", "--folder", "{out}"),
        "demo",
        ("demo/runs/demo/run.json",),
        (
            "demo/runs/demo/trials/*/trial-0000/checkpoint_*",
            "demo/runs/demo/bundle",
            "demo/.predictions.parts",
        ),
        check_demo,
    ),
}
# The demo, with less of everything.
_DEMO = {
    **demo.SETTINGS,
    "data": {"make": {"name": "digits", "train_clips": 60, "val_clips": 30, "test_clips": 30}},
    "model": {"width": 16, "heads": 2, "depth": 2, "fusion_depth": 2, "embedding_dim": 8},
    "train": {"epochs": 2},
    "search": {**demo.SETTINGS["search"], "trials": 2, "startup_trials": 1},
}
_RUN_DEMO = """
import json, sys
from raymc.runtime.interruption import ending_in_order
with ending_in_order("demo"):
    from raymc.__main__ import main
    from raymc.cli import demo
    demo.SETTINGS = json.loads(sys.argv[1])
    main(sys.argv[2:])
"""


@pytest.fixture
def folder(
    tmp_path: Path, runs_folder: Path, tiny_config: Config, tiny_path: Path, tiny_bundle: Path
) -> Path:
    """What the commands read, and nothing that they write."""
    (tmp_path / "data").symlink_to(tiny_path)
    (tmp_path / "bundle").symlink_to(tiny_bundle)
    (tmp_path / "videos").mkdir()
    for seed in range(5):
        write_video(tmp_path / f"videos/{seed}.mp4", seconds=1.0, seed=seed)
    shared = {"run.folder": str(tmp_path / "runs"), "train.epochs": 6}
    shared["tracking.uri"] = f"sqlite:///{runs_folder / 'mlflow.db'}"
    for command, name in (("train", "run"), ("tune", "sweep")):
        settings = {**shared, "run.name": name, "tracking.register_as": f"{tmp_path.name}-{name}"}
        config = override(tiny_config, {**settings, "search.trials": 2})
        write_config(config, tmp_path / f"{command}.yaml")
    return tmp_path


def has_come_to(process: Interruptible, folder: Path, moment: str) -> bool:
    return process.has_ended() or any(folder.glob(moment))


@pytest.mark.parametrize("command", [name for name in CASES if name != "tune"])  # as demo does
def test_a_command_ends_in_order_at_any_moment_and_is_resumed(
    command: str,
    folder: Path,
    runs_folder: Path,
    joined: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twice, by each signal, once in a terminal; then the same command is run to its end.

    The first time it starts a Ray of its own if it needs one, then it joins that of all tests.
    `extract` and `predict` are interrupted once: they handle signals as `train` does.
    """
    case, chance = CASES[command], random.Random()
    turns = (2,) if command in ("extract", "predict") else (1, 2)
    words = [word.format(folder=folder, out=folder / case.out) for word in case.words]
    # One MLflow for all: the demo alone would have it lay out a database, which takes seconds.
    tracking = {**_DEMO["tracking"], "uri": f"sqlite:///{runs_folder / 'mlflow.db'}"}
    smaller = {**_DEMO, "tracking": tracking}
    as_demo = (sys.executable, "-c", _RUN_DEMO, json.dumps(smaller))
    program = as_demo if command == "demo" else (RAYMC,)
    signals, terminals = [signal.SIGINT, signal.SIGTERM], [True, False]
    chance.shuffle(signals)
    chance.shuffle(terminals)
    for turn, number, in_terminal in zip(turns, signals, terminals):
        late = case.late if turn == 2 else ()
        moment, delay = chance.choice(case.early + late), chance.uniform(0.2, 3.0 if late else 1.0)
        where = "in a terminal" if in_terminal else "without one"
        print(f"{number.name} {where}, {delay:.3f} s after {moment} was there")
        log = folder / f"{number.name}.txt"
        environment = joined if turn == 2 else {}
        with interruptible(
            *program, *words, log=log, in_terminal=in_terminal, environment=environment
        ) as process:
            wait_until(partial(has_come_to, process, folder, moment))
            time.sleep(delay)
            process.interrupt(number)
            code = process.wait()
            left = process.left()
        print(output := process.output())
        assert not left
        if code == 0 and late:  # it was faster
            break
        assert code == 128 + number
        what = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        said = [line for line in output.splitlines() if line.startswith("raymc: ")]
        assert said == [f"raymc: {what}; run the same command again to resume"]
        assert "Traceback" not in output

    draw_nothing(monkeypatch)
    monkeypatch.setattr(demo, "SETTINGS", smaller)
    if command != "predict" or not (folder / case.out).exists():
        done = CliRunner().invoke(main, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    case.check(folder)
    assert not list(folder.rglob("*.partial"))


# In every process: the time of day jumps by a night once a file is there, and the monotonic clock
# does not. So it is on a machine that was suspended.
_WOKEN = """
import os, time
def later(read, night):
    return lambda: read() + (night if os.path.exists({file!r}) else 0)
time.time, time.time_ns = later(time.time, 3e4), later(time.time_ns, 30_000 * 10**9)
"""


def test_a_sweep_that_is_stopped_for_a_while_goes_on(folder: Path, ray_logs: Path) -> None:
    """Driver, trials and Ray's own processes, as if suspended; a minute is tried by hand."""
    case = CASES["tune"]
    words = [word.format(folder=folder, out=folder / case.out) for word in case.words]
    (folder / "clock").mkdir()
    (folder / "clock/sitecustomize.py").write_text(_WOKEN.format(file=str(folder / "woken")))
    given = {"PYTHONPATH": str(folder / "clock")}
    log = folder / "stopped.txt"
    with interruptible(RAYMC, *words, log=log, in_terminal=False, environment=given) as process:
        wait_until(partial(has_come_to, process, folder, case.late[0]))
        process.pause(6.0, meanwhile=(folder / "woken").touch)
        code, left = process.wait(), process.left()
    print(process.output())
    assert (code, left) == (0, [])
    case.check(folder)
