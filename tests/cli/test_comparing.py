"""`raymc compare` on folders of runs: what is scored, once, and what can't be compared."""

import itertools
import json
import os
import re
import shutil
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from finished_runs import finished_run, write_description
from rich.console import Console
from tiny import MODALITIES, SPLIT_ROWS, feed_of, tiny_row

from raymc.cli.compare import run_compare
from raymc.cli.main import main
from raymc.cli.use import run_evaluate
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, open_dataset, write_dataset
from raymc.errors import ConfigError, DataError
from raymc.evaluation.compare import compare
from raymc.evaluation.scored import ScoredSplit, load_scored
from raymc.evaluation.scoring import stored_scores
from raymc.metrics.bootstrap import paired_difference
from raymc.metrics.text import difference_text
from raymc.training.bundle import Bundle, load_bundle
from raymc.training.runs import BUNDLE, find_bundle
from raymc.training.validation import predict

pytestmark = pytest.mark.usefixtures("ray_logs")
RESAMPLES = 100  # a tenth of what users get, everywhere in this file


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymc.cli.compare.compare", partial(compare, resamples=RESAMPLES))


@pytest.fixture(scope="module")
def runs(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs good and bad; not to be written to."""
    folder = tmp_path_factory.mktemp("compared")
    finished_run(folder, "good", tiny_bundle)
    finished_run(folder, "bad", tiny_bundle, noise=3.0, loss__margin=0.4)
    return folder


def quiet() -> Console:
    return Console(file=StringIO(), width=100)


def test_scores_are_the_bundle_s_and_kept(tiny_bundle: Path, tiny: Dataset, tmp_path: Path) -> None:
    run = finished_run(tmp_path, "run", tiny_bundle)
    made = stored_scores(load_bundle(run / BUNDLE), tiny, "val")
    bundle = load_bundle(tiny_bundle)
    expected = predict(
        bundle.model, feed_of(tiny, "val", bundle.config), device=torch.device("cpu")
    )
    np.testing.assert_allclose(made.scores, expected.scores, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(made.labels & made.observed, expected.labels & expected.observed)
    assert made.ids == tuple(f"val-{i:03d}" for i in range(SPLIT_ROWS["val"]))
    (file,) = (run / "scores").iterdir()
    np.testing.assert_array_equal(load_scored(file).scores, made.scores)


def test_the_first_run_s_dataset_must_be_there(
    tiny_bundle: Path, tiny: Dataset, tmp_path: Path, runs: Path
) -> None:
    """What its path holds now is compared on only if it is named."""
    rows = {split: [tiny_row(split, i + 9) for i in range(8)] for split in SPLIT_ROWS}
    data = str(tmp_path / "data")
    write_dataset(data, rows, vocabulary=tiny.manifest.vocabulary, modalities=MODALITIES)
    run = finished_run(tmp_path / "runs", "run", tiny_bundle, data__path=data)
    uri = f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"
    for words in (["compare", run, runs / "bad"], ["promote", run, "--name", "m", uri]):
        done = CliRunner().invoke(main, [str(word) for word in words])
        refusal = rf"raymc: run 'run' was trained on another dataset \(.*\) than {data} holds now"
        assert (done.exit_code, bool(re.match(refusal, done.output))) == (2, True), done.output
        assert not (run / "scores").exists()
    done = CliRunner().invoke(main, ["compare", str(run), str(runs / "bad"), "--dataset", data])
    assert done.exit_code == 0, done.output


def test_a_split_is_scored_once(
    tiny_bundle: Path, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "runs", "run", tiny_bundle)
    copied = shutil.copytree(Path(tiny.path), tmp_path / "data")
    run_evaluate(str(run / BUNDLE), str(copied), quiet(), split="val")
    monkeypatch.setattr(Bundle, "embed_tokens", None)  # what was scored is not scored again
    again = run_evaluate(str(run / BUNDLE), str(copied), quiet(), split="val")
    assert len(again.scored.ids) == SPLIT_ROWS["val"]
    (file,) = (run / "scores").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    monkeypatch.undo()
    mended = run_evaluate(str(run / BUNDLE), str(copied), quiet(), split="val")
    np.testing.assert_array_equal(mended.scored.scores, again.scored.scores)
    assert load_scored(file).ids == again.scored.ids


def swap_labels(file: Path) -> None:
    """Exchange the labels of two rows in place; size and time of the file stay."""
    table, times, size = pq.read_table(file), file.stat(), file.stat().st_size
    labels = table["labels"].to_pylist()
    lengths = [len(names) for names in labels]
    one, other = next(
        (i, j)
        for i, j in itertools.combinations(range(len(labels)), 2)
        if lengths[i] == lengths[j] and labels[i] != labels[j]
    )
    labels[one], labels[other] = labels[other], labels[one]
    at = table.schema.get_field_index("labels")
    changed = table.set_column(at, "labels", pa.array(labels, table.schema.field(at).type))
    pq.write_table(changed, file, compression="none", use_dictionary=False, write_statistics=False)
    assert file.stat().st_size == size
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def rewritten(file: Path) -> None:
    """Write a shard as `swap_labels` does, so that its size stays the same there."""
    pq.write_table(
        pq.read_table(file), file, compression="none", use_dictionary=False, write_statistics=False
    )


def test_scores_are_used_again_only_where_they_belong(
    tiny_bundle: Path, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = (finished_run(tmp_path, name, tiny_bundle) for name in ("run", "other"))
    own, foreign = (
        shutil.copytree(Path(tiny.path), tmp_path / kind) for kind in ("own", "foreign")
    )
    (foreign / "dataset.json").unlink()
    rewritten(foreign / "val/00000.parquet")
    made: list[str] = []
    score = Bundle.embed_tokens
    monkeypatch.setattr(
        Bundle, "embed_tokens", lambda self, tokens: made.append("") or score(self, tokens)
    )

    def scored(data: Path, folder: Path = run, device: str = "auto") -> tuple[ScoredSplit, bool]:
        made.clear()
        bundle = load_bundle(folder / BUNDLE)
        bundle = replace(bundle, vocabulary=open_dataset(str(data)).manifest.vocabulary)
        return stored_scores(bundle, open_dataset(str(data)), "val", device=device), bool(made)

    for data in (own, foreign):
        first, is_new = scored(data)
        assert is_new
        again, is_new = scored(data)
        assert not is_new
        np.testing.assert_array_equal(first.scores, again.scores)
    assert not scored(shutil.copytree(own, tmp_path / "elsewhere"))[1]  # the same content
    assert not scored(own, shutil.copytree(run, tmp_path / "copied"))[1]  # another owner

    before, _ = scored(foreign)
    swap_labels(foreign / "val/00000.parquet")
    after, is_new = scored(foreign)
    assert is_new
    assert (after.labels != before.labels).any()
    assert after.dataset_digest != before.dataset_digest

    described = json.loads((run / BUNDLE / "bundle.json").read_text())
    described["config"]["model"]["heads"] = 4
    write_description(run / BUNDLE, described)
    changed, is_new = scored(own)
    assert is_new
    assert not np.array_equal(changed.scores, scored(own, other)[0].scores)

    with monkeypatch.context() as patch:
        patch.setattr("raymc.__version__", "9.9")
        assert scored(own)[1]
    assert not scored(own)[1]

    shard = own / "val/00000.parquet"
    data = bytearray(shard.read_bytes())
    data[data.index(b"add")] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"own/val/00000.parquet is not the file that was written"):
        scored(own)


def test_a_bundle_of_no_run_leaves_nothing_behind(
    tiny_bundle: Path, tiny: Dataset, tmp_path: Path
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "mine" / BUNDLE)
    stored_scores(load_bundle(bundle), tiny, "val")
    assert [path.name for path in bundle.parent.iterdir()] == [BUNDLE]


def test_another_run_may_keep_a_bundle_s_scores(
    tiny_bundle: Path, tiny: Dataset, tmp_path: Path
) -> None:
    made = stored_scores(load_bundle(tiny_bundle), tiny, "val", run=tmp_path)
    (file,) = (tmp_path / "scores").iterdir()
    assert load_scored(file).ids == made.ids


def test_runs_are_compared_on_the_first_one_s_dataset(runs: Path, tiny: Dataset) -> None:
    found = run_compare(["good", "bad"], quiet(), runs_folder=str(runs), split="train")
    ours, theirs = (
        stored_scores(load_bundle(runs / name / BUNDLE), tiny, "train") for name in ("bad", "good")
    )
    expected = paired_difference(
        [ours.scores], [theirs.scores], ours.labels, ours.observed, resamples=RESAMPLES
    )
    (difference,) = found.differences["mAP"]
    values = [difference.value, difference.low, difference.high]
    assert values == pytest.approx([expected.value, expected.low, expected.high])
    assert expected.high < 0
    assert found.settings == {"loss.margin": ((0.1,), (0.4,))}
    assert found.split.split == "train"


def test_the_command(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = ["compare", "good", str(runs / "bad"), f"run.folder={runs}", "--split", "train"]
    result = CliRunner().invoke(main, [*words, "--metric", "LRAP", "--html", str(page)])
    assert result.exit_code == 0, result.output
    first = result.output.splitlines()[0]
    found = run_compare(["good", "bad"], quiet(), runs_folder=str(runs), split="train")
    assert first == f"bad against good: LRAP {difference_text(found.differences['LRAP'][0])}"
    assert f"<p>{first}</p>" in page.read_text()


def test_runs_of_one_name_go_by_what_was_typed(
    runs: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    other = finished_run(tmp_path, "good", tiny_bundle, noise=0.1)
    found = run_compare([str(runs / "good"), str(other)], quiet())
    assert [model[0].name for model in found.models] == [str(runs / "good"), str(other)]


def test_a_run_is_found_by_name_folder_and_bundle(runs: Path) -> None:
    bundle = runs / "good" / BUNDLE
    for run, folder in (("good", runs), (str(runs / "good"), "runs"), (str(bundle), "runs")):
        assert find_bundle(run, str(folder)) == bundle


def test_what_cannot_be_compared(
    runs: Path, tiny_path: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    good = str(runs / "good")
    for names, message in (
        ([good], "a comparison needs at least two runs"),
        ([good, str(runs / "good" / BUNDLE)], "a run is given twice: "),
        (
            [good, "none"],
            rf"no run 'none' in {tmp_path}, and none is not the folder of a run or bundle",
        ),
        ([good, str(tiny_path)], rf"^{tiny_path} is a dataset; name a run, or the bundle of one"),
        ([good, "begun"], r"run 'begun' has no bundle yet: run its command again"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_compare(names, quiet(), runs_folder=str(tmp_path))
    other = finished_run(tmp_path, "other", tiny_bundle)
    renamed = (other / BUNDLE / "bundle.json").read_text().replace('"spell"', '"spelling"')
    write_description(other / BUNDLE, json.loads(renamed))
    with pytest.raises(DataError, match=r"'good' and 'other' .* differ in spell, spelling"):
        run_compare([good, str(other)], quiet())


def test_a_dataset_of_other_classes(runs: Path, tmp_path: Path) -> None:
    rows = [replace(tiny_row("test", i), labels=["new"], observed=None) for i in range(3)]
    path = str(tmp_path / "data")
    write_dataset(path, {"test": rows}, vocabulary=Vocabulary(("new",)), modalities=MODALITIES)
    result = CliRunner().invoke(
        main, ["compare", str(runs / "good"), str(runs / "bad"), "--dataset", path]
    )
    assert result.exit_code == 2
    assert result.stderr.startswith("raymc: the bundle has 5 classes, the dataset 1: ")
