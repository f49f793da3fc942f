"""The benchmark of training: that all ways train the same, what is counted, and what is printed."""

import io
import json
import math
import os
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from threads import ChildThread

from jobs.bench import train as bench
from jobs.bench import train_device, train_ways
from jobs.bench.measure import Measurement
from jobs.bench.train import Settings, bench_train, commands_table, steps_table, timed
from jobs.bench.train_counts import Operations, count_step, counts_table
from jobs.bench.train_device import (
    Load,
    measure_padding,
    measure_use,
    padding_table,
    row_flops,
    use_table,
    use_text,
)
from jobs.bench.train_ways import (
    BARE,
    LIGHTNING,
    RAGGED,
    TRAINER,
    WAYS,
    Figures,
    ShardRows,
    Task,
    collate,
    figures_of,
    make_case,
    train_way,
)
from raymc.cli.main import main
from raymc.config import Config, override, to_dict
from raymc.data.feed.feed import Feeds
from raymc.data.shards import token_means
from raymc.errors import ResourceError
from raymc.events import EpochEnded
from raymc.runtime.child_process import Child
from raymc.tracking.connect import open_client
from raymc.training import loop

CPU = torch.device("cpu")
SETTINGS = {
    "model.width": 16,
    "model.depth": 2,
    "model.fusion_depth": 1,
    "model.heads": 2,
    "train.epochs": 2,
    "train.device": "cpu",
    "tracking.experiment": "benchmark",
}


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module", autouse=True)
def small(patch: pytest.MonkeyPatch) -> None:
    """Ragged clips that are few and short."""
    patch.setattr(train_ways, "RAGGED_ROWS", {"train": 32, "val": 8})
    patch.setattr(train_ways, "RAGGED_TOKENS", (2, 9))
    patch.setattr(train_device, "Child", ChildThread)


@pytest.fixture(scope="module")
def config(small: None, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return make_case(RAGGED, tmp_path_factory.mktemp("ragged"), SETTINGS)


@pytest.fixture(scope="module")
def task(config: Config) -> Task:
    return Task(config, CPU)


@pytest.fixture(scope="module")
def bare(task: Task) -> Figures:
    return WAYS[BARE](task)


def train_plainly(task: Task) -> list[float]:
    """The loss of every epoch of raymc's own loop, without Ray."""
    losses: list[float] = []

    def report(event: EpochEnded, folder: Path | None) -> None:
        losses.append(event.metrics["train/loss"])

    classes = len(task.dataset.manifest.vocabulary.names)
    loop.fit(
        task.config,
        task.dataset.manifest,
        Feeds(
            task.feed,
            task.feed,
            class_counts=torch.ones(classes).numpy(),
            means=token_means(task.dataset, task.config.data.train),
        ),
        device=CPU,
        emit=lambda event: None,
        report=report,
    )
    return losses


@pytest.mark.slow
def test_the_bare_loop_trains_exactly_what_raymc_does(task: Task, bare: Figures) -> None:
    assert bare["losses"] == train_plainly(task)
    assert bare["losses"][1] < bare["losses"][0]
    assert bare["waiting"] == [0.0, 0.0]
    assert min(bare["seconds"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("way", [LIGHTNING, TRAINER])
def test_peers_train_the_same_from_their_loaders(
    way: str, config: Config, bare: Figures, tmp_path: Path
) -> None:
    pytest.importorskip("lightning" if way == LIGHTNING else "accelerate")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_dict(config)))
    peer = train_way(way, str(file))
    assert peer["losses"] == pytest.approx(bare["losses"], abs=1e-4)
    assert len(peer["seconds"]) == 2
    assert all(0 < waiting < 1 for waiting in peer["waiting"])


def test_a_loader_s_rows_make_raymc_s_batches(task: Task) -> None:
    rows = ShardRows(task.dataset, "train")
    assert len(rows) == 32
    assert sorted(row for batch in task.rows[0] for row in batch) == list(range(32))
    for batch, numbers in zip(task.epochs[0], task.rows[0]):
        made = collate([rows[number] for number in numbers])
        for name, tokens in batch.tokens.items():
            assert torch.equal(made["tokens"][name], tokens)
            assert torch.equal(made["lengths"][name], batch.lengths[name])
        assert torch.equal(made["labels"], batch.labels)
        assert torch.equal(made["observed"], batch.observed)


@pytest.mark.slow
def test_flops_are_those_of_the_matrix_products(task: Task) -> None:
    model, flops = task.learner().model, row_flops(task.config, task)
    width = task.config.model.width
    for length in (1, 7, 40):
        matrices = 0  # each once forward and twice backward, two FLOPs an entry and token
        for name, weight in model.named_parameters():
            if weight.ndim < 2 or name in ("bottleneck", "prototypes"):
                continue
            once = name.startswith(("to_embedding", "readouts"))
            seen = 1 if once and "qkv" not in name else length + (not name.startswith("embed"))
            seen += once and "qkv" in name  # the readout token again, for its query
            matrices += 6 * weight.numel() * seen
        tokens = length + 1
        seen = 2 * tokens**2 + (2 * tokens) ** 2 + 2 * tokens  # apart, jointly and to read out
        assert flops(length) == matrices + 12 * width * seen


@pytest.mark.slow
def test_use_of_a_device_counts_padding_as_waste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, with small models that stay as they are."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    load = Load(model={"width": 16, "heads": 2, "depth": 2}, batch=4, steps=3, epochs=2, matrix=64)
    monkeypatch.setattr(train_device, "LOADS", {"small": load})
    figures = {"spans": [[1.0, 2.0]]}
    trials = [
        Measurement("packed", {"at_a_time": n}, {"trials_an_hour": [60.0 * n], **figures})
        for n in (8, 1)
    ]
    monkeypatch.setattr(train_device, "packed_trials", lambda device, folder: trials)
    monkeypatch.setattr(train_device, "row_flops", lambda config, task: lambda length: length + 1)
    found, packed = measure_use(CPU, tmp_path, seconds=60)
    assert packed == trials
    assert [one.name for one in found] == ["small, eager", "small, compiled"]
    for one in found:
        assert one.note == ""
        assert one["batch"] == [4]
        assert len(one["seconds"]) == len(one["waiting"]) == 2
        assert 0 < one["flops"][0] < one["padded_flops"][0]
        assert one["ceiling"][0] > 0
    assert found[0]["flops"] == found[1]["flops"]
    assert found[0]["padded_flops"] < found[1]["padded_flops"]  # lengths in buckets
    page = use_text(CPU, found, trials)
    assert page.startswith("### Use of the device\n\na CPU. MFU is")
    assert "| 8 | 2 | 480 | 480 to 480 | 8.00 |" in page


def test_what_takes_longer_than_the_time_given_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(connection: Connection, device: torch.device, folder: Path) -> None:
        connection.send(Measurement("default model, eager", figures={"batch": [1024]}))
        time.sleep(600)

    monkeypatch.setattr(train_device, "send_use", send)
    began = time.monotonic()
    found, packed = measure_use(CPU, tmp_path, seconds=0.2)
    assert time.monotonic() - began < 60
    assert packed == []
    assert [one.note for one in found] == ["", *["not measured within 0 s"] * 3]
    assert "| default model, compiled | not measured within 0 s" in use_table(found, 1.0)
    assert use_text(CPU, found, packed).endswith(train_device.NO_TRIALS)


@pytest.mark.slow
def test_a_process_that_ends_early_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_device, "Child", Child)
    monkeypatch.setattr(train_device, "send_use", os.abort)
    found, _ = measure_use(CPU, tmp_path, seconds=60)
    assert {one.note for one in found} == {"not measured: the process ended with code 1"}


def test_what_cannot_be_measured_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nSet …")

    monkeypatch.setattr(train_device, "train_load", fail)
    monkeypatch.setattr(train_device, "packed_trials", lambda device, folder: [])
    monkeypatch.setattr(train_device, "product_speed", lambda side, device: 1.0)
    found, _ = measure_use(CPU, tmp_path, seconds=60)
    assert {one.note for one in found} == {"InvalidCxxCompiler: No working C++ compiler found"}
    assert "| default model, eager | InvalidCxxCompiler" in use_table(found, 1.0)


def test_a_batch_that_does_not_fit_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def train(found: Measurement, task: Task) -> None:
        tried.append(task.config.batch.size)
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("too large")
        found.add(seconds=1.0)

    monkeypatch.setattr(train_device, "_train", train)
    monkeypatch.setattr(train_device, "row_flops", lambda config, task: lambda length: length)
    load, one = Load(model={"width": 16, "heads": 2}, batch=8, steps=1), Measurement("small")
    train_device.train_load(one, load, CPU, tmp_path, compiled=False)
    assert tried == [8, 4, 2]
    assert one["batch"] == [2]


@pytest.mark.slow
def test_sorting_by_length_saves_padding(config: Config) -> None:
    # batches enough for pools, and layers enough to train
    layers = {"model.depth": 1, "model.fusion_depth": 0}
    config = override(config, {"batch.size": 2, "train.epochs": 1, **layers})
    plain, pooled = measure_padding(config, CPU, rounds=2)
    kept = size = 0
    for batch in Task(config, CPU).epochs[0]:  # the default pools
        for name, tokens in batch.tokens.items():
            kept += sum(int(length) * tokens.shape[2] for length in batch.lengths[name])
            size += math.prod(tokens.shape)
    assert pooled["padding"] == [1 - kept / size]
    assert plain["padding"] > pooled["padding"] > [0]
    assert len(plain["seconds"]) == len(pooled["padded_seconds"]) == 2


def test_tables_put_each_way_beside_the_bare_loop_of_its_round() -> None:
    losses = [3.0, 2.0, 1.0]

    def measured(way: str, *rounds: tuple[list[float], list[float], list[float]]) -> Measurement:
        found = Measurement(way)
        for seconds, waiting, losses in rounds:
            waited = [share * whole for share, whole in zip(waiting, seconds)]
            found.add(**figures_of(list(zip(seconds, waited, losses))))
        return found

    fast = ([6.0, 3.0, 3.0], [0.5, 0.25, 0.25], losses)
    slow = ([6.0, 6.0, 6.0], [0.5, 0.75, 0.75], [3.0, 2.0, 1.25])
    bare = measured(BARE, *[([9.0, 2.0, 4.0], [0.0] * 3, losses)] * 2)
    table = steps_table([bare, measured("other", fast, slow)], 36)
    assert table.splitlines()[2:] == [
        "| bare loop | 12.0 | 1.000 (1.000 to 1.000) | 0.0% | 9.000 (9.000 to 9.000) "
        "| 3.000 (3.000 to 3.000) | 1.000000 | 0 |",
        "| other | 8.0 | 0.750 (0.500 to 1.000) | 50.0% | 6.000 (6.000 to 6.000) "
        "| 4.500 (3.000 to 6.000) | 1.250000 | 0.2 |",
    ]


def test_a_command_s_table_takes_its_epochs_away() -> None:
    command, helped = Measurement("raymc train"), Measurement("--help")
    for found, rounds in (command, [(10.0, 4.0), (14.0, 6.0)]), (helped, [(0.5, 0.0), (0.7, 0.0)]):
        for whole, inside in rounds:
            found.add(seconds=whole, in_epochs=inside, around=whole - inside)
    table = commands_table([command, helped])
    assert table.splitlines()[2:] == [
        "| raymc train | 12.00 (10.00 to 14.00) | 5.00 | 7.00 (6.00 to 8.00) |",
        "| --help | 0.60 (0.50 to 0.70) |  | 0.60 (0.50 to 0.70) |",
    ]


def test_padding_is_shown_by_pool() -> None:
    figures = {"padding": [0.382], "seconds": [2.0, 1.0, 3.0], "padded_seconds": [3.0]}
    lines = padding_table([Measurement("1", figures=figures)]).splitlines()
    assert lines[2:] == ["| 1 | 38.2% | 2.000 | 3.000 |"]


def test_use_is_flops_over_the_peak_and_the_product_s() -> None:
    figures = {"batch": [4], "seconds": [2.0, 2.0], "flops": [80], "ceiling": [100.0]}
    row = use_table([Measurement("small", figures=figures)], peak=160.0).splitlines()[2]
    assert row.startswith("| small | 4 | 25.0% | 40.0% | 4e-11 |")


def test_a_gpu_s_page_has_neither_ways_nor_commands() -> None:
    assert [Settings().times(part) for part in ("rounds", "commands")] == [5, 3]
    gpu = Settings(device="gpu", rounds=2)
    assert [gpu.times(part) for part in ("rounds", "commands")] == [2, 0]
    with pytest.raises(ResourceError, match="there is no GPU here"):
        bench_train(Console(quiet=True), gpu)


@pytest.mark.slow
def test_a_step_asks_for_few_operations_and_never_waits() -> None:
    parts = count_step()
    assert [one.name for one in parts] == ["forward", "loss", "backward", "optimizer", "whole step"]
    whole = {key: value for key, (value,) in parts[-1].figures.items()}
    assert whole["waits"] == 0
    assert 1000 < whole["operations"] <= 1625  # 2,135 with float32 rotations
    assert 100 < whole["casts"] <= 400  # 556 with them
    assert (
        counts_table(parts).splitlines()[-1].startswith(f"| whole step | {whole['operations']:,}")
    )
    with Operations() as seen:
        x = torch.ones(3).to(torch.bfloat16)
        x.view(1, 3)
        assert x.sum().item() == 3
        assert x.nonzero().numel() == 3
    assert seen.figures == {"operations": 5, "casts": 1, "waits": 2}


def timed_here(arguments: Sequence[str]) -> tuple[float, str]:
    """Run a module in this process, which has imported already what takes seconds."""
    option, module, *rest = arguments
    if option != "-m":
        return timed(arguments)
    printed, began = io.StringIO(), time.perf_counter()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        if module == "raymc":  # without what it does on signals, which are those of the tests
            main(rest, standalone_mode=False)
        else:
            patch.setattr(sys, "argv", [module, *rest])
            runpy.run_module(module, run_name="__main__")
    return time.perf_counter() - began, printed.getvalue()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_logs")
def test_the_whole_benchmark_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = io.StringIO()
    monkeypatch.setattr(bench, "WAYS", {BARE: WAYS[BARE]})
    monkeypatch.setattr(bench, "timed", timed_here)
    monkeypatch.setattr(bench, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))
    monkeypatch.setattr(bench, "PADDING_ROUNDS", 1)
    start, nothing = next(iter(bench.STARTS.items()))
    monkeypatch.setattr(bench, "STARTS", {start: nothing})
    database = f"sqlite:///{tmp_path}/mlflow.db"
    open_client(database, create=True)  # laid out here, where that is quick
    overrides = {path: str(value) for path, value in SETTINGS.items()}
    overrides["tracking.uri"] = database
    settings = Settings(cases=("ragged",), rounds=1, epochs=2, commands=1, overrides=overrides)
    bench_train(Console(file=page), settings, out=tmp_path)
    written = json.loads((tmp_path / "train.json").read_text())["measurements"]
    commands = {m["name"]: m["figures"] for m in written if "in_epochs" in m["figures"]}
    for name in ("raymc train", BARE):
        assert commands[name]["seconds"][0] > commands[name]["in_epochs"][0] > 0
    assert commands[start]["in_epochs"] == [0.0]
    steps = {m["name"]: m["figures"] for m in written if m["case"] == {"dataset": RAGGED}}
    assert list(steps) == [BARE, "raymc train"]
    assert steps["raymc train"]["losses"] == steps[BARE]["losses"]
    assert (tmp_path / "train.md").read_text().strip() in page.getvalue()
    for part in ("### Start and end", f"### {RAGGED}", bench.NO_GPU.strip(), "| 16 | "):
        assert part in page.getvalue()
