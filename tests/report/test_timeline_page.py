"""The page of a timeline in Chromium, from the file system: it plays, and does what is clicked."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from browser import needs_browser, resize, touching
from pages import Seen
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from videos import write_video

from raymc.evaluation.neighbours import TrainingClips
from raymc.evaluation.timeline import Timeline
from raymc.metrics.calibration import Calibration
from raymc.report import timeline as page
from raymc.report.playing import Look, Looking, copy_for_browsers
from raymc.report.timeline import page_address, timeline_page

LABELS = ("counting </script><b>bold</b>", "{{ 7 * 7 }}", "never [/x]")
LIKELY = ([0.1, 0.9, 0.8, 0.1, 0.1, 0.6], [0.1, 0.1, 0.2, 0.7, 0.7, 0.1], [0.1] * 6)


def look(video: Path) -> Look:
    with closing(Looking(str(video))) as looking:
        return looking.result()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that browsers don't play (MPEG-4 Part 2), as a copy that they do."""
    folder = tmp_path_factory.mktemp("videos")
    raw, heard = write_video(folder / "raw.mp4", seconds=6.0), list[float]()
    before = look(raw)
    assert not before.is_played
    assert before.seconds == pytest.approx(6, abs=0.2)
    copy_for_browsers(str(raw), folder / "my lesson #1.mp4", listener=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(5.9)
    assert look(folder / "my lesson #1.mp4").is_played
    return folder / "my lesson #1.mp4"


@pytest.fixture(scope="module")
def timeline(video: Path) -> Timeline:
    likely = np.array(LIKELY).T
    scores = np.log(likely / (1 - likely)).astype(np.float32)
    without_sound = np.where(np.arange(6)[:, None] == 1, np.nan, -scores).astype(np.float32)
    return Timeline(
        path=str(video),
        labels=LABELS,
        window_seconds=1.0,
        stride_seconds=1.0,
        chosen="as asked",
        starts=np.arange(6.0),
        ends=np.arange(6.0) + 1,
        scores=scores,
        embeddings=np.eye(6, dtype=np.float32),
        alone={"visual": scores, "audio": without_sound},
        calibration=Calibration(1.0, (0.0,) * 3),
        thresholds=np.array([0.0, 0.0, np.inf], np.float32),
        failures=("a picture is <missing>",),
    )


@pytest.fixture(scope="module")
def clips() -> TrainingClips:
    table = pa.table(
        {
            "id": [f"clip-{i}" for i in range(6)],
            "labels": [["counting"], ["<i>x</i>"], [], ["a", "b"], [], []],
            "path": [f"videos/{i}.mp4" for i in range(6)],
            "start_seconds": [60.0 * i for i in range(6)],
            "end_seconds": [60.0 * i + 2.5 for i in range(6)],
        }
    )
    turned = np.roll(np.eye(6), 1, axis=0) + 0.5 * np.eye(6)
    unit = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    return TrainingClips(table, unit.astype(np.float32))


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("is_embedded", [True, False])
def test_the_page_plays_and_seeks(
    is_embedded: bool,
    timeline: Timeline,
    clips: TrainingClips,
    video: Path,
    browser: webdriver.Chrome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page, "EMBED_BYTES", (1 << 20) * is_embedded)
    out = tmp_path / "lesson.html"
    address = page_address(str(video), out)
    assert address.startswith("data:video/mp4;base64," if is_embedded else "./../")
    out.write_text(timeline_page(timeline, address, clips=clips, notes=["It's <new>."]), "utf-8")
    resize(browser, 1200)
    browser.get(out.as_uri())

    def seen(css: str) -> list[str]:
        return [one.text for one in browser.find_elements(By.CSS_SELECTOR, css)]

    def until(condition: Callable[[], bool]) -> None:
        WebDriverWait(browser, 60, 0.05).until(lambda _: condition())

    def of_video(name: str) -> float:
        return browser.execute_script(f"return document.getElementById('video').{name}")

    until(lambda: of_video("readyState") >= 1)
    assert of_video("duration") == pytest.approx(6, abs=0.2)
    assert of_video("videoWidth") == 32
    assert seen("h1") == ["my lesson #1.mp4"]
    assert seen(".summary p") == [
        "3 segments of 2 of 3 labels.",
        "6 windows of 1 s, one every 1 s (as asked).",
        "1 label has no threshold, because none is reliable on the validation clips, so they have "
        "no segments.",
        "Not read: a picture is <missing>.",
        "It's <new>.",
    ]
    assert seen("#labels > .tracks h3")[1:] == list(LABELS[:2])
    assert not browser.find_elements(By.CSS_SELECTOR, "b, i")
    assert not browser.find_element(By.ID, "unplayed").is_displayed()
    browser.find_element(By.TAG_NAME, "summary").click()
    assert seen("details h3") == [LABELS[2]]

    segments = browser.find_elements(By.CSS_SELECTOR, ".lane .segment")
    told = [one.get_attribute("aria-label") for one in segments]
    assert told == [
        f"{LABELS[0]}, 0:01 to 0:03, 90\u00a0%",
        f"{LABELS[0]}, 0:05 to 0:06, 60\u00a0%",
        f"{LABELS[1]}, 0:03 to 0:05, 70\u00a0%",
    ]
    lane = browser.find_element(By.CSS_SELECTOR, ".lane:not(.axis)").rect
    assert segments[0].rect["x"] == pytest.approx(lane["x"] + lane["width"] / 6, abs=2)
    assert segments[0].rect["width"] == pytest.approx(lane["width"] / 3, abs=2)

    segments[0].click()
    until(lambda: of_video("currentTime") == 1)
    assert seen("#moment h2") == ["Why: 0:01 to 0:02"]
    assert seen("#kinds th") == ["label", "together", "visual alone", "audio alone"]
    assert seen("#likely tr:first-child td") == [LABELS[0], "90 %", "90 %", "–"]
    assert seen("#near li") == [
        "0.89 no label\nvideos/2.mp4 2:00 to 2:02.5",
        "0.45 <i>x</i>\nvideos/1.mp4 1:00 to 1:02.5",
        "0.00 counting\nvideos/0.mp4 0:00 to 0:02.5",
    ]
    segments[2].send_keys(Keys.ENTER)  # as someone without a mouse
    until(lambda: of_video("currentTime") == 3)
    assert seen("#likely tr:first-child td")[0] == LABELS[1]
    assert seen("#segments tbody tr:first-child td") == ["0:01", "0:03", LABELS[0], "90 %"]
    browser.find_element(By.CSS_SELECTOR, "#segments tbody tr:last-child button").send_keys(" ")
    until(lambda: of_video("currentTime") == 5)
    head = browser.find_element(By.CSS_SELECTOR, ".lane:not(.axis) .head").rect
    assert head["x"] == pytest.approx(lane["x"] + lane["width"] * 5 / 6, abs=3)
    browser.execute_script("video.currentTime = 0; video.muted = true; return video.play()")
    until(lambda: of_video("currentTime") > 1.5)
    until(lambda: seen("#moment h2") != ["Why: 0:05 to 0:06"])
    browser.execute_script("video.pause()")

    resize(browser, 400)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    assert touching(browser) == []
    assert browser.execute_script("return document.querySelector('.segment').clientWidth") > 50


@pytest.mark.slow
@needs_browser
def test_a_video_that_is_gone_is_said(
    timeline: Timeline, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    out = tmp_path / "lesson.html"
    out.write_text(timeline_page(timeline, "./gone.mp4"), "utf-8")
    browser.get(out.as_uri())
    told = browser.find_element(By.ID, "unplayed")
    WebDriverWait(browser, 60, 0.05).until(lambda _: told.is_displayed())
    assert "does not play the video" in told.text
    assert not browser.find_element(By.ID, "nearest").is_displayed()


@pytest.mark.slow
def test_the_page_loads_the_video_alone(timeline: Timeline, clips: TrainingClips) -> None:
    text = timeline_page(timeline, "./lesson.mp4", clips=clips)
    assert Seen(text).loaded == ["./lesson.mp4"]
    assert "49" not in Seen(text).all_text()
    scores = replace(timeline, calibration=None)
    assert "highest score" in timeline_page(scores, "./lesson.mp4")
    only = replace(timeline, alone={}, thresholds=np.full(3, np.inf, np.float32))
    assert "<details open>" in timeline_page(only, "./lesson.mp4")
