"""Any text as label, id, group, run or folder: what was typed is what is shown and written."""

import html
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState
from rich.console import Console
from sweeps import Planned, keep_bundle, make_sweep
from tiny import MODALITIES, tiny_row

from raymc.cli.compare import run_compare
from raymc.cli.jobs import _table
from raymc.cli.runs import run_train
from raymc.cli.use import run_evaluate, run_predict
from raymc.config import Config, override
from raymc.data.info import describe, print_info
from raymc.data.labels import Vocabulary
from raymc.data.shards import Row, open_dataset, write_dataset
from raymc.evaluation.add_class import add_class
from raymc.evaluation.compare import compare
from raymc.evaluation.export import export
from raymc.report.build import build_report
from raymc.runtime.jobs import Job
from raymc.terminal import print_line, visible
from raymc.training.bundle import load_bundle
from raymc.training.runs import read_run

# Markup of terminals, pages and tables; control characters; letters of one to four bytes.
EXAMPLES: list[dict[str, Any]] = [
    {
        "labels": ["[/x]", "math [easy]", "\x1b[31mred\x07", "a\nb", "<b>&amp;"],
        "groups": ["$x_{1}$", "[/m]"],
        "id": "[/id]\x1b",
        "run": "[abc]=",
    },
    {
        "labels": ["\x1d\x1b\U000de2f6¯²", "notes", "{{x}}", ".\x01È\U00108bceM\x04", "`|*_"],
        "groups": [":car:", "Å\x92Þ\U00071383z"],
        "id": ",",
        "run": "\U0006ff5aÑ∕ÀÞi\x1b",
    },
]


def dataset_of(folder: Path, labels: list[str], groups: list[str], id: str) -> str:
    """Write a dataset of a few rows under names; returns its folder."""

    def row(split: str, number: int) -> Row:
        made = tiny_row(split, 8 * number)
        here = [labels[number % 5], labels[(number + 1) % 5]]
        return Row(id=f"{id}{split}{number}", labels=here, tokens=made.tokens)

    members = {groups[0]: tuple(labels[:2]), groups[1]: tuple(labels[2:4])}
    write_dataset(
        str(folder),
        {split: [row(split, n) for n in range(6)] for split in ("train", "val", "test")},
        vocabulary=Vocabulary(tuple(labels), groups=members),
        modalities=MODALITIES,
        shard_rows=6,
    )
    return str(folder)


def shows(text: str, typed: str) -> bool:
    """Whether a text on many lines shows what was typed, which may have several, too."""
    return all(line.rstrip() in text for line in visible(typed).split("\n"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("typed", EXAMPLES)
def test_what_was_typed_is_what_is_seen(
    tiny_config: Config, typed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, groups, id, run = (typed[name] for name in ("labels", "groups", "id", "run"))
    # Intervals take long, and no text depends on how good they are.
    monkeypatch.setattr("raymc.cli.compare.compare", partial(compare, resamples=5))
    monkeypatch.setattr("raymc.report.build.quick_resamples", lambda scored: 5)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, run)
        data = dataset_of(folder / "data", labels, groups, id)
        config = override(
            tiny_config,
            {
                "data.path": data,
                "run.folder": str(folder),
                "run.name": run,
                "train.epochs": 1,
                "search.space": {"loss.margin": {"choices": [0.1, 0.2]}},
            },
        )
        opened = open_dataset(data)
        plan = Planned({"loss.margin": 0.1}, TrialState.COMPLETE, is_trained=True)
        sweep = make_sweep(config, opened, [plan])
        keep_bundle(sweep, 0)
        printed = StringIO()
        console = Console(file=printed, width=500)  # not ours: texts must not depend on it
        run_evaluate(str(sweep / "bundle"), data, console)
        print_info(describe(opened), console)
        run_predict(str(sweep / "bundle"), data, folder / "out", console)
        trained = run_train(override(config, {"run.name": f"{run}2"}), console)
        page = folder / "page.html"
        names = [str(sweep), str(trained.parent)]
        run_compare(names, console, html=page)
        more = f"more {labels[0]}"
        model, first = load_bundle(sweep / "bundle"), f"{id}train0"
        added = add_class(model, more, [data], folder / "more", ids=[first])
        for line in added.lines():
            print_line(console, line)
        export(load_bundle(folder / "more"), folder / "given", name=run)
        assert load_bundle(folder / "given").vocabulary.names == (
            *opened.manifest.vocabulary.names,
            more,
        )
        print_line(console, f"job {id}")
        job = Job(
            id=id, name=id, state="RUNNING", command=run, message="", exit_code=None,
            started=0.0, ended=1.0,
        )  # fmt: skip
        console.print(_table([job], console.width))
        shown = printed.getvalue()
        for text in (*labels, *groups, id, run, more):
            assert shows(shown, text), text
        assert not {c for c in shown if ord(c) < 32 or 127 <= ord(c) < 160} - {"\n"}
        table = pq.read_table(folder / "out")
        assert set(table["id"].to_pylist()) == {f"{id}test{n}" for n in range(6)}
        assert {name for row in table["labels"].to_pylist() for name in row} <= set(labels)
        for written in (build_report(read_run(sweep)), page.read_text()):
            for text in (*labels, run):
                assert shows(html.unescape(written), text), text
