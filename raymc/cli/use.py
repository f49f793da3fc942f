"""What `raymc evaluate` and `predict` do; `main.py` has their options.

Nothing here imports Ray or MLflow, which takes seconds; a source that needs Ray does.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from raymc.cli.display import CountDisplay, ExtractDisplay
from raymc.cli.options import OWN_THRESHOLD, print_unread
from raymc.data.shards import open_dataset
from raymc.evaluation.evaluate import (
    Evaluation,
    evaluate,
    evaluation_table,
    group_table,
    numbers_of,
)
from raymc.evaluation.outcomes import without_threshold
from raymc.evaluation.predict import predict
from raymc.terminal import print_line
from raymc.training.bundle import load_bundle
from raymc.training.runs import find_bundle, own_dataset


def run_evaluate(
    run: str,
    dataset: str | None,
    console: Console,
    *,
    runs_folder: str = "runs",
    split: str = "test",
    device: str = "auto",
    json_file: Path | None = None,
) -> Evaluation:
    """Measure a run's bundle on a split; prints tables, and writes the numbers to `json_file`.

    Without a dataset, it is the one that the run was trained on. JSON has no NaN, so a metric
    without a value is null there.
    """
    bundle = load_bundle(find_bundle(run, runs_folder))
    opened = open_dataset(dataset) if dataset else own_dataset(bundle)
    with CountDisplay(console, "rows") as display:
        result = evaluate(bundle, opened, split, device=device, on_rows=display.count)
    console.print(evaluation_table(result))
    groups = group_table(result)
    if groups is not None:
        console.print(groups)
    if json_file is not None:
        numbers = {k: x if math.isfinite(x) else None for k, x in numbers_of(result).items()}
        json_file.write_text(json.dumps(numbers, indent=1, allow_nan=False))
    return result


def run_predict(
    run: str,
    source: str,
    out: Path,
    console: Console,
    *,
    runs_folder: str = "runs",
    split: str = "",
    device: str = "auto",
    top: int = 0,
    threshold: float | None = None,
) -> None:
    """Write the labels of a dataset's split, or of videos, to a file or a folder."""
    bundle = load_bundle(find_bundle(run, runs_folder))
    with ExtractDisplay(console) as display:
        given: dict[str, Any] = {"split": split, "device": device, "top": top}
        heard = {"listener": display.handle, "on_rows": display.rows}
        found = predict(bundle, source, out, threshold=threshold, **given, **heard)
    print_line(
        console, f"predictions of {found.clips:,} clips, {found.labelled:,} with a label: {out}"
    )
    missing = int(np.isinf(bundle.thresholds).sum())
    if missing and threshold is None:
        print_line(console, f"{without_threshold(missing)}, so they are not given")
        if bundle.calibration is not None:
            print_line(console, OWN_THRESHOLD)
    print_unread(console, found.failures, rest="; the column error has all")
