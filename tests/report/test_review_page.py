"""The page of a review in Chromium: it is answered, and its table read back as the next dataset."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import av
import numpy as np
import pytest
from browser import needs_browser, resize
from finished_runs import finished_run
from pages import Seen
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from threads import read_in_threads
from tiny import bundle_here
from videos import write_video

from raymc.config import Config, ExtractConfig, override
from raymc.data.feed.batches import decode_tokens
from raymc.data.labels import Vocabulary
from raymc.data.shards import (
    Dataset,
    Modality,
    Row,
    open_dataset,
    read_shard,
    write_dataset,
)
from raymc.evaluation.review.doubts import Doubt
from raymc.evaluation.review.duplicates import Pair
from raymc.evaluation.review.next_clips import Pick
from raymc.evaluation.review.out_of_fold import read_clips_of
from raymc.evaluation.review.review import (
    Candidates,
    Review,
    _confirmed,
    _own_candidates,
    review,
)
from raymc.features.extraction import (
    EncodedClip,
    ExtractPlan,
    extract_files,
    make_encoders,
    plan_extraction,
)
from raymc.features.recipe import MADE_BY
from raymc.features.sources import Source, list_media
from raymc.report.playing import copy_for_browsers
from raymc.report.review import extract_command, review_page
from raymc.training.bundle import load_bundle

EXTRACT = ExtractConfig(visual="patches", fps=4, window_seconds=1)
LABELS = ("counting </script><b>bold</b>", "{{ 7 * 7 }}", "semi;colon", "plain")
VIDEOS = 4


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of two clips each, the first of which browsers play, and two without labels."""
    folder = tmp_path_factory.mktemp("videos")
    raw = write_video(tmp_path_factory.mktemp("raw") / "raw.mp4")
    copy_for_browsers(str(raw), folder / "my lesson #0.mp4", listener=lambda seconds: None)
    for number in range(1, VIDEOS + 2):
        write_video(folder / f"my lesson #{number}.mp4", seed=number)
    return folder


@pytest.fixture(scope="module")
def plan() -> ExtractPlan:
    return plan_extraction(EXTRACT)


def encoded(sources: list[Source], plan: ExtractPlan) -> list[tuple[Source, EncodedClip]]:
    encoders = make_encoders(plan.config, plan.light)
    found = extract_files(list(enumerate(sources)), plan, encoders)
    return [(sources[number], item) for number, item in found if isinstance(item, EncodedClip)]


def arrays(clip: EncodedClip, plan: ExtractPlan) -> dict[str, np.ndarray]:
    return {
        one.name: np.frombuffer(clip.tokens[one.name] or b"", one.numpy_dtype).reshape(-1, one.dim)
        for one in plan.modalities
    }


@pytest.fixture(scope="module")
def data(videos: Path, plan: ExtractPlan, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """What `raymc extract` makes of the first videos, with labels, in windows of a second."""
    sources = [
        Source(path=str(videos / f"my lesson #{k}.mp4"), id=f"lesson{k}") for k in range(VIDEOS)
    ]
    rows: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    for source, clip in encoded(sources, plan):
        number = len(rows["train"]) + len(rows["val"]) + len(rows["test"])
        place = {"start_seconds": clip.start_seconds, "end_seconds": clip.end_seconds}
        extra = {"teacher": "Ann, B.", "path": source.path, **place}
        labels = [LABELS[number % 4], LABELS[(number + 1) % 4]]
        split = ("train", "val", "test")[max(0, number // 2 - 1)]
        rows[split].append(Row(clip.id, labels, arrays(clip, plan), extra=extra))
    path = str(tmp_path_factory.mktemp("data") / "lessons")
    write_dataset(
        path,
        rows,
        vocabulary=Vocabulary(LABELS),
        modalities=plan.modalities,
        provenance={"made_by": MADE_BY, **asdict(EXTRACT)},
    )
    return open_dataset(path)


@pytest.fixture(scope="module")
def found(
    data: Dataset, videos: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Review:
    """A review that has found what the tests answer."""
    folder = tmp_path_factory.mktemp("runs")
    config = override(tiny_config, {"train.epochs": 1, "data.path": data.path})
    run = finished_run(folder, "lessons", bundle_here(data, config, folder / "made"))
    others = folder / "others"
    others.mkdir()
    (others / "broken.mp4").write_text("no video")
    (others / "whole.mp4").symlink_to(videos / f"my lesson #{VIDEOS}.mp4")
    with pytest.MonkeyPatch.context() as patch:
        read_in_threads(patch)
        made = review(load_bundle(run / "bundle"), data, folds=2, unlabelled=str(others))
    assert [one["id"] for one in made.candidates.places] == ["whole@0-1", "whole@1-2"]
    new = [
        {"id": f"lesson{k}", "path": str(videos / f"my lesson #{k}.mp4"), "start": 0.0, "end": 1.0}
        for k in (VIDEOS, VIDEOS + 1)
    ]
    return replace(
        made,
        doubts=[
            Doubt(0, 0, True, 0.04, 0.04),
            Doubt(0, 3, False, 0.9, 0.1),
            Doubt(1, 1, True, 0.2, 0.2),
        ],
        pairs=[Pair(2, 5, 1.0, True)],
        candidates=Candidates(
            tuple(new),
            ("new videos",) * 2,
            np.full((2, 4), 0.5),
            np.zeros((2, 8), np.float32),
            made.candidates.failures,
        ),
        picks=[Pick(1, 1.0, 0.5), Pick(0, 1.0, 0.4)],
    )


@pytest.fixture(scope="module")
def page(found: Review, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "review.html"
    path.write_text(review_page(found, path, name="lessons <i>x</i>"), "utf-8")
    return path


@pytest.mark.slow
def test_the_page_loads_nothing_and_escapes_texts(page: Path, found: Review) -> None:
    seen = Seen(page.read_text("utf-8"))
    assert seen.loaded == []
    assert "mathdefault" not in seen.all_text()  # a tick that matplotlib has set as a formula
    assert seen.tags.count("img") == 3 * 6  # frames of each clip, once a card
    # clips of files that browsers don't play have copies in the page, which are as long
    played = re.findall(r'data-src="([^"]*)" data-end="([^"]*)"', page.read_text("utf-8"))
    copies = [(src.partition(";base64,")[2], end) for src, end in played if src[:5] == "data:"]
    assert (len(played), len(copies)) == (6, 4)
    for copy, end in copies:
        with av.open(io.BytesIO(base64.b64decode(copy)), "r") as file:
            assert (file.duration or 0) / av.time_base == pytest.approx(1, abs=0.15)
            assert (end, file.streams.video[0].codec_context.name) == ("", "h264")
    assert "bold" not in "".join(seen.text.get("b", []))
    assert "lessons <i>x</i>" in seen.all_text()
    (unread,) = found.candidates.failures
    assert Path(unread.partition(": ")[0]).name == "broken.mp4"
    assert f"Not read: {unread}." in seen.all_text()
    assert extract_command(found) == (
        "raymc extract corrected.csv --out data/corrected extract.fps=4.0 extract.visual=patches"
    )


@pytest.mark.slow
@needs_browser
def test_answers_become_a_table_that_extract_reads(
    page: Path,
    data: Dataset,
    plan: ExtractPlan,
    browser: webdriver.Chrome,
    tmp_path: Path,
) -> None:
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    resize(browser, 1200)
    browser.get(page.as_uri())

    def until(condition: Callable[[], object]) -> None:
        WebDriverWait(browser, 60, 0.05).until(lambda _: condition())

    def all_of(css: str) -> list[WebElement]:
        return browser.find_elements(By.CSS_SELECTOR, css)

    def click(element: WebElement) -> None:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def answer(name: str, value: str) -> None:
        click(all_of(f"input[name='{name}'][value='{value}']")[0])

    def labels(row: int) -> list[str]:
        return [one.text.removesuffix(" ×") for one in all_of(f".chips[data-row='{row}'] button")]

    def add(row: int, label: str) -> None:
        form = all_of(f"form[data-row='{row}']")[0]
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", form)
        form.find_element(By.TAG_NAME, "input").send_keys(label)
        form.find_element(By.TAG_NAME, "button").click()

    # a clip with two questions, one answered here, one by the label itself
    assert labels(0) == list(LABELS[:2])
    answer("q-0-0", "wrong")
    assert labels(0) == [LABELS[1]]
    assert all_of("#count")[0].text == "0 of 5 answered"
    add(0, LABELS[3])
    assert labels(0) == [LABELS[1], LABELS[3]]
    assert all_of("input[name='q-0-3'][value='wrong']")[0].is_selected()
    answer("q-1-1", "right")
    answer("p-0", "out-5")
    new, other = 8, 9  # rows of the new clips, the first of which is lesson5
    add(new, LABELS[2])
    add(new, 'new, "label"')
    answer(f"n-{other}", "none")
    assert all_of("#count")[0].text == "5 of 5 answered"

    # the first video plays from its start to its end; of the next, in MPEG-4, there is a copy
    play = all_of("button.play")
    click(play[0])
    until(lambda: browser.execute_script("return document.querySelector('video').readyState") >= 1)
    assert browser.execute_script("return document.querySelector('video').videoWidth") == 32
    source = browser.execute_script("return document.querySelector('video').src")
    assert source.endswith("my%20lesson%20%230.mp4#t=0,1")
    click(play[2])
    until(lambda: len(found := all_of("video")) == 2 and found[1].get_property("videoWidth"))

    # answers stay when the page is opened again, on a telephone
    resize(browser, 400)
    browser.get(page.as_uri())
    width = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert len(set(browser.execute_script(width))) == 1
    assert all_of("#count")[0].text == "5 of 5 answered"
    assert labels(0) == [LABELS[1], LABELS[3]]
    click(all_of("#save")[0])
    table = tmp_path / "corrected.csv"
    until(table.exists)

    sources = list_media(replace(EXTRACT, source=str(table), window_seconds=None)).sources
    read = {one.id: one for one in sources}
    assert len(sources) == 9  # of 8 clips one was left out, and two are new
    rows = {row["id"]: row for row in _rows(data)}
    assert set(rows) - set(read) == {"lesson2@1-2"}
    assert set(read) - set(rows) == {"lesson4", "lesson5"}
    assert read["lesson0@0-1"].labels == (LABELS[1], LABELS[3])
    assert read["lesson5"].labels == (LABELS[2], 'new, "label"')
    assert read["lesson4"].labels == ()
    assert read["lesson5"].split == "train"
    for name in set(rows) & set(read) - {"lesson0@0-1"}:
        here, there = rows[name], read[name]
        assert sorted(there.labels) == sorted(here["labels"])  # in the order of the classes
        assert (there.path, there.split) == (here["path"], here["split"])
        assert (there.start_seconds, there.end_seconds) == (
            here["start_seconds"],
            here["end_seconds"],
        )
        assert there.extra["teacher"] == "Ann, B."
    reviewed = {name: one.extra["reviewed"] for name, one in read.items()}
    assert set(filter(None, reviewed.values())) == {
        '["counting </script><b>bold</b>","plain"]',
        '["{{ 7 * 7 }}"]',
        "[]",
    }
    # the same features come out, but for the decoder's noise in the sound
    part = [read[name] for name in ("lesson0@0-1", "lesson1@1-2")]
    without_windows = plan_extraction(replace(EXTRACT, window_seconds=None))
    for _, clip in encoded(part, without_windows):
        expected = rows[clip.id]["tokens"]
        found = arrays(clip, plan)
        np.testing.assert_array_equal(found["visual"], expected["visual"])
        np.testing.assert_allclose(found["audio"], expected["audio"], atol=0.1)


def _rows(data: Dataset) -> Iterator[dict[str, object]]:
    for split, shards in data.manifest.splits.items():
        for shard in shards:
            table = read_shard(data, shard)
            tokens = decode_tokens(table, data.manifest.modalities)
            for at, row in enumerate(table.drop_columns(list(tokens)).to_pylist()):
                yield {**row, "split": split, "tokens": {n: x.row(at) for n, x in tokens.items()}}


@pytest.mark.slow
def test_what_was_reviewed_is_not_asked_again(found: Review, tmp_path: Path) -> None:
    """A label that a person has confirmed, and a clip of which they said that no label fits."""
    rows = [
        Row("a", ["plain"], {"visual": np.ones((2, 3))}, extra={"reviewed": '["plain", "gone"]'}),
        Row("b", [], {"visual": np.ones((2, 3))}, extra={"reviewed": "[]"}),
        Row("c", [], {"visual": np.ones((2, 3))}, extra={"reviewed": ""}),
        Row("d", ["plain"], {"visual": np.ones((2, 3))}, extra={"reviewed": "yes"}),
    ]
    path = str(tmp_path / "again")
    write_dataset(
        path,
        {"train": rows},
        vocabulary=Vocabulary(LABELS),
        modalities=(Modality("visual", 3),),
    )
    clips = read_clips_of(open_dataset(path), ("train",))
    assert _confirmed(clips, found.bundle) == {(0, 3)}
    offered = _own_candidates(clips, np.zeros((4, 4)), np.zeros((4, 2), np.float32))
    assert [place["id"] for place in offered.places] == ["c"]
