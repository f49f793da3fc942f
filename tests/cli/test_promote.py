"""`raymc promote` against a real registry: who takes an alias, who is refused, what is recorded."""

import json
import shutil
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from finished_runs import finished_run, write_description
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console
from tiny import SPLIT_ROWS, tiny_row

from raymc.cli.main import main
from raymc.cli.promote import Promotion, run_promote
from raymc.config import TrackingConfig
from raymc.data.shards import Dataset, open_dataset, write_dataset
from raymc.errors import BundleError, ConfigError, DataError, PromotionError, ResourceError
from raymc.evaluation.compare import compare
from raymc.evaluation.scored import ScoredSplit
from raymc.evaluation.scoring import stored_scores
from raymc.metrics.bootstrap import bootstrap_interval, paired_difference
from raymc.metrics.metrics import evaluate_scores
from raymc.metrics.text import difference_text
from raymc.tracking import open_tracker
from raymc.tracking.models import RecordedTest, Registry, log_bundle
from raymc.training.bundle import load_bundle
from raymc.training.runs import BUNDLE

pytestmark = pytest.mark.usefixtures("ray_logs")


@pytest.fixture(scope="module")
def runs(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, of which one is clearly worse than the others, and their registry."""
    folder = tmp_path_factory.mktemp("promoted")
    finished_run(folder, "good", tiny_bundle)
    finished_run(folder, "like", tiny_bundle, noise=0.001)
    finished_run(folder, "bad", tiny_bundle, noise=3.0)
    return folder


RESAMPLES = 20  # a fiftieth of what users get, everywhere in this file


@pytest.fixture(autouse=True)
def _default_address_and_few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("raymc.cli.promote.compare", partial(compare, resamples=RESAMPLES))


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A registered model of the test's own."""
    return request.node.name


def client(runs: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{runs}/mlflow.db")


def promote(run: Path, model: str, **asked: object) -> str:
    """Promote on the split with most rows; returns what was printed."""
    console = Console(file=StringIO(), width=200)
    values = {"name": model, "split": "train", **asked}
    run_promote(str(run), Promotion(**values), console)  # pyright: ignore[reportArgumentType]
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def holder(runs: Path, model: str, alias: str = "champion") -> str:
    """Digest of the weights that an alias points at."""
    version = client(runs).get_model_version_by_alias(model, alias)
    return version.tags["raymc.weights"]


def weights(run: Path) -> str:
    return load_bundle(run / BUNDLE).weights_digest


def versions(runs: Path, model: str) -> list[int]:
    found = client(runs).search_model_versions(f"name = '{model}'")
    return sorted(int(version.version) for version in found)


def scores(run: Path, dataset: Dataset) -> ScoredSplit:
    return stored_scores(load_bundle(run / BUNDLE), dataset, "train")


def difference(run: Path, other: Path, dataset: Dataset) -> str:
    ours, theirs = (scores(each, dataset) for each in (run, other))
    return difference_text(
        paired_difference(
            [ours.scores],
            [theirs.scores],
            ours.labels,
            ours.observed,
            resamples=RESAMPLES,
        )
    )


def test_the_first_one_is_promoted_and_its_test_recorded(
    runs: Path, model: str, tiny: Dataset
) -> None:
    text = promote(runs / "good", model)
    assert text.startswith(f"{model} has no champion yet\nmodels:/{model}@champion is version 1: ")
    version = client(runs).get_model_version_by_alias(model, "champion")
    assert version.tags["raymc.weights"] == weights(runs / "good")
    trial = RecordedTest.of_tags(version.tags)
    assert trial is not None
    assert (trial.dataset, trial.digest, trial.split) == (
        str(tiny.path),
        tiny.manifest.digest(),
        "train",
    )
    scored = scores(runs / "good", tiny)
    table = (scored.scores, scored.labels, scored.observed)
    assert set(trial.metrics) == {"mAP", "R80", "micro_AP", "LRAP"}
    for name, each in trial.metrics.items():
        interval = bootstrap_interval(
            *table,
            metric=name,  # pyright: ignore[reportArgumentType]
            resamples=RESAMPLES,
        )
        expected = (evaluate_scores(*table).to_dict()[name], *interval)
        assert each == pytest.approx(expected, abs=1e-6)
    run = client(runs).get_run(version.run_id)
    assert (run.info.run_name, run.info.status) == ("good", "FINISHED")


def test_a_better_one_takes_the_alias(runs: Path, model: str, tiny: Dataset) -> None:
    promote(runs / "bad", model)
    text = promote(runs / "good", model)
    said = difference(runs / "good", runs / "bad", tiny)
    assert said.endswith(": better")
    rival = f"good against version 1 (champion of {model}) on train of {tiny.path}: mAP "
    assert text.splitlines()[0] == rival + said
    assert holder(runs, model) == weights(runs / "good")
    assert versions(runs, model) == [1, 2]


def test_one_that_cannot_be_told_apart_takes_it_too(runs: Path, model: str) -> None:
    promote(runs / "good", model)
    assert "no clear difference" in promote(runs / "like", model)
    assert holder(runs, model) == weights(runs / "like")


def test_a_worse_one_is_refused_unless_forced(runs: Path, model: str, tiny: Dataset) -> None:
    promote(runs / "good", model)
    words = ["promote", "bad", f"run.folder={runs}", "--name", model, "--split", "train"]
    result = CliRunner().invoke(main, words)
    said = difference(runs / "bad", runs / "good", tiny)
    assert said.endswith(": worse")
    assert result.exit_code == 1
    assert result.stderr == (
        f"raymc: not promoted: bad against version 1 (champion of {model}) on train of "
        f"{tiny.path}: mAP {said}; --force promotes it anyway\n"
    )
    assert holder(runs, model) == weights(runs / "good")
    assert versions(runs, model) == [1]
    result = CliRunner().invoke(main, [*words, "--force"])
    assert result.exit_code == 0, result.output
    assert "promoted anyway because of --force\n" in result.output
    assert holder(runs, model) == weights(runs / "bad")


def test_nothing_is_promoted_where_nothing_can_be_measured(
    runs: Path, model: str, tiny: Dataset, tmp_path: Path
) -> None:
    nothing = str(tmp_path / "unlabelled")
    rows = [replace(tiny_row("test", i), labels=[], observed=None) for i in range(9)]
    of = tiny.manifest
    write_dataset(nothing, {"train": rows}, vocabulary=of.vocabulary, modalities=of.modalities)
    words = ["promote", "bad", f"run.folder={runs}", "--name", model, "--split", "train"]
    said = f"raymc: not promoted: mAP has no value on train of {nothing}, which has no row with a "
    for champion in (None, weights(runs / "good")):
        result = CliRunner().invoke(main, [*words, "--dataset", nothing])
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.startswith(said)
        if champion is None:
            promote(runs / "good", model)
    assert holder(runs, model) == champion
    promote(runs / "bad", model, dataset=nothing, force=True)
    assert holder(runs, model) == weights(runs / "bad")


def test_each_alias_has_its_own_holder(runs: Path, model: str) -> None:
    promote(runs / "good", model)
    promote(runs / "bad", model, alias="baseline")
    assert holder(runs, model) == weights(runs / "good")
    assert holder(runs, model, "baseline") == weights(runs / "bad")
    with pytest.raises(PromotionError):
        promote(runs / "bad", model)
    promote(runs / "good", model, alias="baseline")
    assert holder(runs, model, "baseline") == weights(runs / "good")
    assert versions(runs, model) == [1, 2]


def test_the_holder_is_left_alone(runs: Path, model: str) -> None:
    promote(runs / "good", model)
    assert promote(runs / "good", model) == f"good is already champion of {model}\n"
    assert versions(runs, model) == [1]


def test_other_thresholds_are_another_version(
    runs: Path, model: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    promote(runs / "good", model)
    other = finished_run(tmp_path, "other", tiny_bundle)
    described = json.loads((other / BUNDLE / "bundle.json").read_text())
    write_description(other / BUNDLE, {**described, "thresholds": [0.5] * 5})
    address = f"tracking.uri=sqlite:///{runs}/mlflow.db"
    words = ["promote", str(other), address, "--name", model, "--split", "train"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    version = client(runs).get_model_version_by_alias(model, "champion")
    assert version.tags["raymc.bundle"] == load_bundle(other / BUNDLE).digest
    assert versions(runs, model) == [1, 2]


def test_the_holder_s_recorded_test_set_is_used(
    runs: Path, model: str, tiny_path: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(tiny_path, tmp_path / "copy")
    promote(runs / "bad", model, dataset=str(copied))
    assert f" on train of {copied}: mAP" in promote(runs / "good", model, split="")
    longer = [tiny_row("test", i) for i in range(SPLIT_ROWS["test"] + 1)]
    shutil.rmtree(copied)
    tiny = open_dataset(str(tiny_path)).manifest
    write_dataset(
        str(copied), {"train": longer}, vocabulary=tiny.vocabulary, modalities=tiny.modalities
    )
    with pytest.raises(DataError, match=rf"{copied} has changed since version 2 of .* --dataset"):
        promote(runs / "like", model, split="")
    assert " on train of " in promote(runs / "like", model, dataset=str(copied))
    shutil.rmtree(copied)
    with pytest.raises(DataError, match=f"no dataset at {copied}"):
        promote(runs / "good", model)
    assert holder(runs, model) == weights(runs / "like")


def test_other_classes_are_an_error(
    runs: Path, model: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    promote(runs / "good", model)
    other = finished_run(tmp_path, "other", tiny_bundle, noise=0.1)
    renamed = (other / BUNDLE / "bundle.json").read_text().replace('"spell"', '"spelling"')
    write_description(other / BUNDLE, json.loads(renamed))
    address = f"tracking.uri=sqlite:///{runs}/mlflow.db"
    for options in ([], ["--force"]):
        words = ["promote", str(other), address, "--name", model, *options]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 2
        assert result.stderr.startswith(
            f"raymc: 'other' and 'version 1 of {model}' can't be compared: they have 5 "
        )
    assert holder(runs, model) == weights(runs / "good")


def test_a_model_needs_a_name(runs: Path, model: str, tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"run '.*/good' has no tracking.register_as"):
        promote(runs / "good", "")
    named = finished_run(runs, "named", tiny_bundle, tracking__register_as=model)
    promote(named, "")
    assert holder(runs, model) == weights(named)


def test_a_version_that_training_registered_is_taken(runs: Path, model: str) -> None:
    with open_tracker(TrackingConfig(), str(runs)) as tracker:
        key = tracker.start_run("like", key="like", params={}, tags={})
        run_id = tracker.run_id(key)
        tracker.end_run(key, "complete")
        log_bundle(
            runs / "like" / BUNDLE, run_id, uri=tracker.uri, register_as=model, alias="candidate"
        )
    promote(runs / "like", model)
    version = client(runs).get_model_version_by_alias(model, "champion")
    assert (int(version.version), version.run_id) == (1, run_id)
    assert RecordedTest.of_tags(version.tags) is not None
    assert versions(runs, model) == [1]


def test_interrupted_before_the_alias_it_goes_on(
    runs: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "point", interrupt)
        with pytest.raises(KeyboardInterrupt):
            promote(runs / "good", model)
    with pytest.raises(MlflowException, match="alias"):
        holder(runs, model)
    promote(runs / "good", model)
    assert holder(runs, model) == weights(runs / "good")
    assert versions(runs, model) == [1]


def test_a_holder_that_is_no_bundle(runs: Path, model: str, tmp_path: Path) -> None:
    promote(runs / "good", model, alias="other")
    (tmp_path / "MLmodel").write_text("{}")
    foreign = client(runs).create_model_version(model, str(tmp_path))
    client(runs).set_registered_model_alias(model, "champion", foreign.version)
    with pytest.raises(BundleError, match=f"version 2 of {model} is not a bundle of raymc"):
        promote(runs / "like", model)
    shutil.rmtree(tmp_path)
    with pytest.raises(ResourceError, match="can't be used"):
        promote(runs / "like", model)


def test_what_is_recorded_goes_round() -> None:
    trial = RecordedTest(
        "s3://a/b", "abc", "test", {"mAP": (0.5, 0.25, 0.75), "R80": (0.1, 0.0, 0.2)}
    )
    assert RecordedTest.of_tags({**trial.to_tags(), "other": "x"}) == trial
    assert RecordedTest.of_tags({"raymc.test_split": "test"}) is None
