"""On Ray: runs a sweep whose trials only wait, on a cluster that starts and ends nodes.

`python -m jobs.bench.autoscale_driver WAY OUT JSON` is what `autoscale.py` starts, in a process of
its own because each sweep has its own cluster.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune

from cluster.local import FAKE_GPU
from raymc.config import Config, override
from raymc.runtime.connect import connect
from raymc.search.gathering import NODE
from raymc.search.searcher import HandingOut, StudySearcher
from raymc.search.study import open_study
from raymc.search.sweep import concurrent_trials, make_scheduler, make_tuner
from raymc.training.on_ray import equip
from raymc.training.runs import TRIALS, open_run
from raymc.training.worker import EPOCH, IS_LAST


def pretend(
    settings: Mapping[str, Any], *, out: str, seconds: float, epochs: int, keys: tuple[str, ...]
) -> None:
    """Wait for the time of each epoch, report a curve that rises, and note that the GPU was used.

    It is sent by value, so that its process has nothing heavy to import.
    """
    epoch_key, last_key, node_key, monitor = keys
    node, moved = ray.get_runtime_context().get_node_id(), tune.get_checkpoint()
    done = int(Path(moved.path, "state").read_text()) if moved else 0
    quality = random.Random(settings["number"]).random()
    for epoch in range(done + 1, epochs + 1):
        time.sleep(seconds)
        with Path(out, "epochs").open("a") as file:
            file.write(f"{settings['number']} {epoch}\n")
        value = quality * (1 - 0.8**epoch)
        result = {epoch_key: epoch, last_key: epoch == epochs, node_key: node, monitor: value}
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "state").write_text(str(epoch))
            tune.report(result, checkpoint=tune.Checkpoint.from_directory(folder))


def drive(way: str, out: Path, settings: Mapping[str, Any]) -> None:
    """Run the sweep as raymc does, or with Tune alone."""
    config = override(
        Config(),
        {
            "train.epochs": settings["epochs"],
            "train.device": "cpu",
            "train.worker_resources": {FAKE_GPU: settings["share"]},
            "search.trials": settings["trials"],
            "run.folder": str(out),
            "run.name": "sweep",
        },
    )
    keys = (EPOCH, IS_LAST, NODE, config.train.monitor)
    trainable = tune.with_parameters(
        pretend,
        out=str(out),
        seconds=settings["epoch_seconds"],
        epochs=settings["epochs"],
        keys=keys,
    )
    run = open_run(config, sweep=True)
    connect(run.folder / "ray.log")
    run, scheduler = equip(run), make_scheduler(config)
    if way == "raymc":
        session = run.folder / TRIALS / "session-000"
        searcher = StudySearcher(
            open_study(run),
            config,
            session=session,
            scheduler=scheduler,
            listener=lambda trial: None,
        )
        trials = HandingOut(searcher, concurrent=concurrent_trials(config, run.resources))
        make_tuner(run, trainable, trials, scheduler, session=session).fit()
        return
    numbers = {"number": tune.grid_search(list(range(config.search.trials)))}
    tune.Tuner(
        tune.with_resources(trainable, dict(run.resources)),
        param_space=numbers,
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=tune.RunConfig(name="tune", storage_path=str(out), verbose=0),
    ).fit()


if __name__ == "__main__":
    drive(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
