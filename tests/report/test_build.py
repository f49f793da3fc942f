"""Whole pages of small sweeps: valid, self-contained, escaped, and there whatever is missing."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import needs_browser, resize, touching
from optuna.trial import TrialState
from pages import Seen, draw_nothing
from selenium import webdriver
from sweeps import ODD_NAMES, Planned, default_of, keep_bundle, make_sweep, odd_dataset

from raymc.config import Config, override
from raymc.data.shards import Dataset
from raymc.errors import ConfigError, SweepError
from raymc.report.build import build_report, save_report
from raymc.training.runs import read_run

pytestmark = pytest.mark.usefixtures("fewest_resamples")
SPACE = {
    "loss.margin": {"low": 0.0, "high": 0.5},
    "optimizer.lr": {"low": 1e-5, "high": 0.1, "log": True},
    "model.fusion_depth": {"low": 0, "high": 2},
    "loss.two_way": {"choices": [True, False]},
}
ANCHORS = [
    "default", "trials", "history", "settings", "cost", "classes", "curves", "prototypes", "map",
    "errors",
]  # fmt: skip


def chosen(margin: float, lr: float, depth: int, two_way: bool) -> dict[str, object]:
    return dict(zip(SPACE, (margin, lr, depth, two_way)))


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together, but not drawn: for tests of what the page says besides."""
    draw_nothing(monkeypatch)


@pytest.fixture(scope="module")
def config(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("report")
    return override(
        tiny_config,
        {
            "data.path": str(folder / "odd"),
            "run.folder": str(folder / "runs"),
            "run.name": "some",
            "train.epochs": 3,
            "optimizer.lr": 1e-5,  # that of the first trial, which must not win
            "search.space": SPACE,
        },
    )


@pytest.fixture(scope="module")
def dataset(config: Config) -> Dataset:
    return odd_dataset(Path(config.data.path))


@pytest.fixture(scope="module")
def sweep(config: Config, dataset: Dataset) -> Path:
    """Trials of every state, the first with the configuration's own values; not to be changed."""
    folder = make_sweep(
        config,
        dataset,
        [
            Planned({**default_of(config), "loss.two_way": True}, is_trained=True),
            Planned(chosen(0.3, 0.03, 2, True), is_trained=True),
            Planned(chosen(0.2, 0.001, 0, False), TrialState.PRUNED, [0.2]),
            Planned(chosen(0.4, 0.05, 1, True), TrialState.FAIL, message="<b>it</b> broke"),
            Planned(chosen(0.1, 0.002, 0, True), TrialState.PRUNED, [0.25, 0.3]),
            Planned(chosen(0.45, 0.0001, 1, False), TrialState.PRUNED, [0.1]),
            Planned(chosen(0.05, 0.02, 2, False), TrialState.RUNNING, [0.15]),
        ],
    )
    keep_bundle(folder, 1)
    return folder


@pytest.fixture(scope="module")
def page(sweep: Path, config: Config) -> str:
    return build_report(read_run(sweep), price=36.0)


@pytest.mark.slow
def test_a_page_is_whole_and_loads_nothing(page: str) -> None:
    seen = Seen(page)
    assert seen.loaded == []
    assert len(seen.ids) == len(set(seen.ids))
    assert seen.links == [f"#{anchor}" for anchor in ANCHORS]
    assert set(ANCHORS) <= set(seen.ids)
    assert seen.tags.count("svg") == 8
    assert len(set(seen.labels)) == 8
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', page))
    assert used <= set(seen.ids)


@pytest.mark.slow
def test_names_are_escaped(page: str) -> None:
    seen = Seen(page)
    assert seen.tags.count("script") == 1
    shown = seen.all_text()
    for name in (*ODD_NAMES, "<b>it</b> broke", "<i>val-0"):
        assert name in shown
    assert "i" not in seen.tags
    assert "b" not in seen.tags


def test_what_the_page_says(page: str) -> None:
    shown = Seen(page).all_text()
    for text in (
        "Trial 1 won with val/mAP", "points of mAP against the default settings on val",
        "7 trials were run (2 complete, 3 pruned, 1 failed, 1 running).",
        # pruned: 2, 1 and 2 epochs of 2 s not run; the price is a hundredth a second
        "Stopping weak trials early avoided 5 epochs", "an estimated 10 s of worker time or 0.10.",
        "Trial 3 failed: <b>it</b> broke", "t-SNE of cosine distances",
    ):  # fmt: skip
        assert text in shown


def test_terms_are_explained_where_they_are_first_used(page: str) -> None:
    body = page[page.index("<body>") :]
    assert body.index("mAP is the mean average precision") < body.index("points of mAP")
    assert body.index("R80 is recall at 80") == body.index("R80")
    assert body.index("A trial is one training") < body.index("trials were run")


@pytest.mark.slow
@needs_browser
def test_a_page_on_a_phone(page: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, "utf-8")
    for width in (1200, 400):
        resize(browser, width)
        browser.get((tmp_path / "report.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert touching(browser, 10) == []
        ticks = browser.execute_script(TICKS)
        assert len(ticks) >= 3
        places, values = zip(*((place, float(text.rstrip("%"))) for place, text in ticks))
        slope, start = np.polyfit(places, values, 1)
        # what a label says is what lies at its place, to half a pixel
        np.testing.assert_allclose(values, slope * np.array(places) + start, atol=-slope / 2)


TICKS = """
const texts = [...document.querySelectorAll("#history svg text")];
return texts.filter(text => /^[0-9.]+%$/.test(text.textContent)).map(text => {
  const box = text.getBoundingClientRect();
  return [box.top + box.height / 2, text.textContent];
});
"""


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
def test_the_winner_is_scored_without_the_bundle_too(
    page: str, sweep: Path, config: Config
) -> None:
    shutil.move(sweep / "bundle", sweep / "away")
    again = build_report(read_run(sweep), price=36.0)
    shutil.move(sweep / "away", sweep / "bundle")
    figure = re.compile(r"<svg[^>]*/>|<svg.*?</svg>", re.DOTALL)
    assert figure.sub("", again) == figure.sub("", page)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
def test_a_page_of_another_split_too_large_for_intervals(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymc.evaluation.compare._MOST_ENTRIES", 1)
    shown = Seen(build_report(read_run(sweep), split="test")).all_text()
    assert "<i>test-0" in shown
    assert "<i>val-0" not in shown
    assert re.search(r"That is [+-]\d+\.\d points .* too large for an interval here", shown)
    assert "There is no comparison" not in shown


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize(
    ("lost", "settings", "message"),
    [
        ("trial-0000", {}, "The default's model can't be compared: "),
        ("", {"data.path": "nowhere"}, "The model could not be examined: no dataset at nowhere"),
        ("", {"loss.margin": 0.2}, "The default settings were not tried"),
    ],
)
def test_what_is_missing_is_said_in_its_place(
    lost: str,
    settings: dict[str, object],
    message: str,
    sweep: Path,
    config: Config,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(sweep, tmp_path / "some")
    if lost:  # those that lie where the study says belong to another sweep by now
        shutil.rmtree(folder / "trials" / lost)
    seen = Seen(
        build_report(read_run(folder, [f"{key}={value}" for key, value in settings.items()]))
    )
    assert message in seen.all_text()
    assert "There is no comparison with the default settings" in seen.all_text()
    assert {"trials", "history", "settings", "cost"} <= set(seen.ids)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
def test_a_replaced_dataset_is_not_judged_on(sweep: Path, tiny_path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sweep, tmp_path / "some")
    file = folder / "config.json"
    settings = json.loads(file.read_text())
    settings["data"]["path"] = str(tiny_path)
    file.write_text(json.dumps(settings))
    shown = Seen(build_report(read_run(folder))).all_text()
    assert f"{tiny_path} holds another dataset than the sweep was trained on: name" in shown
    assert "There is no comparison with the default settings" in shown


@pytest.mark.slow
@pytest.mark.parametrize("names", [("one",), ("one", "two")])
def test_small_sweeps_of_few_classes(
    names: tuple[str, ...], config: Config, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if len(names) > 1:  # the figures of one class, which have nothing to tell apart, are drawn
        request.getfixturevalue("quick_figures")
    data = odd_dataset(tmp_path / "data", names)
    settings = {
        "data.path": str(tmp_path / "data"),
        "run.folder": str(tmp_path),
        "train.epochs": 1,
        "search.space": {"loss.margin": SPACE["loss.margin"]},
    }
    only = override(config, settings)
    folder = make_sweep(only, data, [Planned(default_of(only), is_trained=True)])
    seen = Seen(build_report(read_run(folder)))
    assert seen.links == [f"#{anchor}" for anchor in ANCHORS]
    shown = seen.all_text()
    assert "the search found nothing better" in shown
    assert "1 trial was run (1 complete)." in shown
    assert ("There is one class only" in shown) == (len(names) == 1)


def test_a_sweep_in_which_all_failed(config: Config, dataset: Dataset) -> None:
    settings = override(config, {"run.name": "failed"})
    failed = Planned(chosen(0.1, 0.1, 1, True), TrialState.FAIL, message="the loss became nan")
    folder = make_sweep(settings, dataset, [failed])
    with pytest.raises(SweepError, match="all 1 trials of the sweep failed; the first: the loss"):
        build_report(read_run(folder))


def test_a_run_is_no_sweep(sweep: Path, config: Config, tmp_path: Path) -> None:
    shutil.copy(sweep / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"is not the folder of a sweep: it has no study\.db"):
        build_report(read_run(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


def test_pages_appear_whole(tmp_path: Path) -> None:
    save_report("<p>ü</p>", tmp_path / "a" / "b.html")
    assert (tmp_path / "a" / "b.html").read_text("utf-8") == "<p>ü</p>"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.html"]
    with pytest.raises(ConfigError, match="the report can't be written to"):
        save_report("", tmp_path / "a" / "b.html" / "c.html")
