"""A model as a folder to give away: the same scores, a card that Hugging Face reads, no paths."""

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from tiny import LABELS, SPLIT_ROWS

import raymc
from raymc.cli.main import main
from raymc.data.shards import Dataset, read_shard
from raymc.errors import BundleError, ConfigError, DataError
from raymc.evaluation import export as exporting
from raymc.evaluation.evaluate import evaluate, numbers_of
from raymc.training.bundle import WEIGHTS, Bundle, load_bundle, read_description, write_bundle

ODD = ("a|b", "<b>x</b> & *y*", "`c`", "[l](javascript:x)", "--- # $z$ \\| ~~s~~")


def cells(card: str) -> list[list[str]]:
    """What a reader sees in the tables of a page of Markdown, row by row."""
    rows: list[list[str]] = []
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(card)
    for before, token in pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif before.type in ("td_open", "th_open"):
            parts = token.children or []
            assert {one.type for one in parts} <= {"text", "text_special"}, token.content
            rows[-1].append("".join(one.content for one in parts))
    return rows


def test_a_folder_that_stands_alone(tiny_bundle: Path, tiny: Dataset, tmp_path: Path) -> None:
    out, before = tmp_path / "lessons-model", os.umask(0o027)
    try:
        arguments = ["export", tiny_bundle, "--out", out, "--dataset", tiny.path]
        arguments += ["--license", "CC-BY-4.0", "--split", "test"]
        result = CliRunner().invoke(main, list(map(str, arguments)))
    finally:
        os.umask(before)
    assert result.output.splitlines() == [f"model: {out}; its card is {out / 'README.md'}"]
    assert {path.name for path in out.iterdir()} == {
        *("README.md", "LICENSE", "metrics.json", "bundle.json", "model.safetensors")
    }
    assert {oct(path.stat().st_mode & 0o777) for path in out.iterdir()} == {"0o640"}
    assert oct(out.stat().st_mode & 0o777) == "0o750"
    for path in out.iterdir():
        assert str(tmp_path.parent).encode() not in path.read_bytes(), path

    ours, theirs = load_bundle(tiny_bundle), load_bundle(out)
    table = read_shard(tiny, tiny.split("test")[0])
    assert (ours.score(table) == theirs.score(table)).all()
    assert theirs.config.model == ours.config.model
    frames = [raymc.predict(model, tiny.path) for model in (ours, theirs)]
    pd.testing.assert_frame_equal(*frames)

    found = evaluate(ours, tiny, "test")
    expected = {name: x for name, x in numbers_of(found).items() if np.isfinite(x)}
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert (card.data.library_name, card.data.pipeline_tag) == ("raymc", "video-classification")
    assert card.data.datasets == ["tiny"]
    told = {one.metric_name: one.metric_value for one in card.data.eval_results or []}
    assert {"mAP", "R80", "ECE"} < told.keys()
    assert told == {name: expected[name] for name in told}
    assert {one.dataset_split for one in card.data.eval_results or []} == {"test"}
    numbers = json.loads((out / "metrics.json").read_text())
    assert numbers["clips"] == SPLIT_ROWS["test"]
    assert {k: x for k, x in numbers["metrics"].items() if x is not None} == expected
    assert list(numbers["labels"]) == list(LABELS)
    assert [row[0] for row in cells(card.text) if row[0] in LABELS] == list(LABELS)
    assert "45 train, 23 val, 11 test clips" in card.text
    assert "CC-BY-4.0" in (out / "LICENSE").read_text()

    again = raymc.export(theirs, tmp_path / "again", name="Again")
    assert again.weights_digest == ours.weights_digest
    assert again.digest == theirs.digest


def changed(bundle: Path, folder: Path, **values: Any) -> Bundle:
    """A copy of a bundle whose description has other values."""
    folder.mkdir()
    description = {**read_description(bundle), **values}
    write_bundle(folder, (bundle / WEIGHTS).read_bytes(), description)
    return load_bundle(folder)


@pytest.mark.slow
def test_a_bundle_in_no_run_is_measured_on_the_dataset_of_its_settings(
    tiny_bundle: Path, tiny: Dataset, tmp_path: Path
) -> None:
    for name, dataset in (("own", ""), ("named", tiny.path)):
        arguments = {"license": "mit", "dataset": dataset}
        assert exporting.export(load_bundle(tiny_bundle), tmp_path / name, **arguments) == []
    own, named = ((tmp_path / name / "metrics.json").read_text() for name in ("own", "named"))
    assert own == named
    assert json.loads(own)["split"] == "test"


def test_what_is_missing_is_said(tiny_bundle: Path, tmp_path: Path) -> None:
    config = read_description(tiny_bundle)["config"]
    moved = {**config, "data": {**config["data"], "path": "elsewhere/tiny"}}
    model = changed(tiny_bundle, tmp_path / "moved", config=moved)
    notes = exporting.export(model, tmp_path / "model", license="Mine, all mine")
    assert notes == [
        f"the card has the metrics of validation only: the bundle {tmp_path / 'moved'} is in no "
        "run's folder, and its dataset can't be read from 'elsewhere/tiny': name a dataset"
    ]
    card = ModelCard.load(tmp_path / "model/README.md")
    assert (card.data.license, card.data.license_name) == ("other", "mine-all-mine")
    assert "Its best epoch and thresholds were chosen there" in card.text
    (_, unlicensed) = exporting.export(model, tmp_path / "unlicensed")
    assert unlicensed.endswith("give --license cc-by-4.0")
    assert ModelCard.load(tmp_path / "unlicensed/README.md").data.license == "unknown"


def test_another_dataset_where_the_settings_say_measures_nothing(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    model = changed(tiny_bundle, tmp_path / "other", dataset_digest="0" * 64)
    (note,) = exporting.export(model, tmp_path / "model", license="mit")
    assert "was trained on another dataset (digest 000000000000)" in note
    assert json.loads((tmp_path / "model/metrics.json").read_text())["split"] == "val"


def test_labels_and_names_are_shown_as_they_are(tiny_bundle: Path, tmp_path: Path) -> None:
    vocabulary = {"names": ODD, "groups": {}, "background": None}
    odd = changed(tiny_bundle, tmp_path / "odd", vocabulary=vocabulary)
    title = "Töne: <i>1</i>\n- x: [y]"
    (note, _) = exporting.export(odd, tmp_path / "out", name=title)
    assert "validation only: the bundle has 5 classes, the dataset 5: they differ in" in note
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.model_name == title
    assert [row[0] for row in cells(card.text) if row[1:] in (["no"], ["yes"])] == list(ODD)
    heading = MarkdownIt().parse(card.text)[1]
    assert "".join(one.content for one in heading.children or []) == " ".join(title.split())


def test_nothing_is_left_of_a_failed_export(
    tiny_bundle: Path, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, out = load_bundle(tiny_bundle), tmp_path / "out"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write_text", full)
        with pytest.raises(DataError, match="can't be written: No space left"):
            exporting.export(bundle, out)
    for of in ("weights_digest", "digest"):
        with pytest.raises(BundleError, match="was replaced meanwhile"):
            exporting.export(replace(bundle, **{of: "0"}), out)
    with pytest.raises(ConfigError, match="is the name of a licence"):
        exporting.export(bundle, out, license="You may\ncopy it")
    with pytest.raises(DataError, match="split 'tset' does not exist"):
        exporting.export(bundle, out, dataset=tiny.path, split="tset")
    assert not any(tmp_path.iterdir())
    out.mkdir()
    with pytest.raises(DataError, match="already exists: choose another --out"):
        exporting.export(bundle, out)
