from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits

from raymc.config import DigitsConfig
from raymc.data.shards import Row, open_dataset, ragged, read_shard
from raymc.formats.digit_sounds import SAMPLE_RATE_HZ, SPLITS, Sounds, draw_tones
from raymc.formats.digits import Timeline, digits, draw_timeline, mix
from raymc.formats.recipe import make_dataset

SMALL = DigitsConfig(train_clips=30, val_clips=10, test_clips=10)


def bytes_of(row: Row) -> tuple[object, ...]:
    tokens = {name: array.tobytes() for name, array in row.tokens.items() if array is not None}
    return row.id, tuple(row.labels), tokens, dict(row.extra)


def timelines(config: DigitsConfig, split: str, sounds: Sounds, count: int) -> list[Timeline]:
    seeds = [[config.seed, SPLITS.index(split), i] for i in range(count)]
    return [draw_timeline(config, split, sounds, np.random.default_rng(seed)) for seed in seeds]


@pytest.fixture(scope="module")
def training_rows() -> list[Row]:
    return list(digits(DigitsConfig(train_clips=400)).splits["train"])


@pytest.fixture(scope="module")
def small() -> dict[str, list[Row]]:
    """The rows of SMALL by split."""
    return {split: list(rows) for split, rows in digits(SMALL).splits.items()}


@pytest.mark.slow
def test_rows_are_the_same_every_time_and_in_any_order(small: dict[str, list[Row]]) -> None:
    back = digits(SMALL)
    for split in SPLITS:
        last = len(back.splits[split]) - 1
        backward = {i: bytes_of(back.splits[split][i]) for i in range(last, -1, -1)}
        for i, row in enumerate(small[split]):
            assert bytes_of(row) == backward[i]


@pytest.mark.slow
def test_clips_do_not_depend_on_how_many_there_are(small: dict[str, list[Row]]) -> None:
    more = digits(DigitsConfig(train_clips=31, val_clips=99, test_clips=1))
    assert bytes_of(more.splits["train"][29]) == bytes_of(small["train"][29])


def test_seeds_and_splits_give_other_clips(small: dict[str, list[Row]]) -> None:
    other = digits(DigitsConfig(seed=1)).splits
    audio = [
        array.tobytes()
        for splits in (small, other)
        for split in SPLITS
        for row in splits[split][:10]
        if (array := row.tokens["audio"]) is not None
    ]
    assert len(set(audio)) == 2 * 3 * 10


@pytest.mark.slow
def test_written_twice_the_files_are_equal_and_hold_what_was_made(
    small: dict[str, list[Row]], tmp_path: Path
) -> None:
    recipe = digits(SMALL)
    first = make_dataset(recipe, str(tmp_path / "a"), shard_rows=16)
    second = make_dataset(digits(SMALL), str(tmp_path / "b"), shard_rows=16)
    assert first.digest() == second.digest()
    for split in SPLITS:
        for shard in first.splits[split]:
            assert (tmp_path / "a" / shard.file).read_bytes() == (
                tmp_path / "b" / shard.file
            ).read_bytes()
    dataset = open_dataset(str(tmp_path / "a"))
    table = read_shard(dataset, dataset.split("val")[0])
    assert table["speaker"].to_pylist() == [row.extra["speaker"] for row in small["val"]]
    assert table["labels"].to_pylist() == [list(row.labels) for row in small["val"]]
    for modality in recipe.modalities:
        column = ragged(table[modality.name], modality)
        for i, row in enumerate(small["val"]):
            np.testing.assert_array_equal(column.row(i), row.tokens[modality.name])
    assert dataset.manifest.vocabulary == recipe.vocabulary
    assert "10.24432/C50P49" in dataset.manifest.license


@pytest.mark.slow
def test_tokens_cover_the_clip_at_their_rates(training_rows: list[Row]) -> None:
    rates = {modality.name: modality.rate_hz for modality in digits(SMALL).modalities}
    assert rates == {"visual": 5, "audio": 10}
    lengths = []
    for row in training_rows:
        visual, audio = row.tokens["visual"], row.tokens["audio"]
        assert visual is not None
        assert audio is not None
        assert (visual.dtype, audio.dtype) == (np.float16, np.float16)
        assert (visual.shape[1], audio.shape) == (64, (2 * len(visual), 160))
        assert visual.min() >= 0
        assert visual.max() <= 1
        lengths.append(len(visual) / rates["visual"])
    assert (min(lengths), max(lengths)) == (4.0, 6.0)


@pytest.mark.slow
def test_values_are_about_unit_scale(training_rows: list[Row]) -> None:
    audio = np.concatenate([np.asarray(row.tokens["audio"], float) for row in training_rows])
    assert abs(audio.mean()) < 0.1
    assert abs(audio.std() - 1) < 0.1
    assert np.abs(audio).max() < 8


@pytest.mark.slow
def test_labels_equal_a_look_at_every_millisecond(small: dict[str, list[Row]]) -> None:
    sounds, rows = draw_tones(SMALL.seed), small["train"]
    for row, timeline in zip(rows, timelines(SMALL, "train", sounds, len(rows)), strict=True):
        expected = set()
        for moment in np.arange(0, timeline.seconds, 0.001):
            seen, sounding = (
                {e.digit for e in events if e.start_seconds <= moment < e.end_seconds}
                for events in (timeline.shown, timeline.heard)
            )
            expected |= {f"shown_{k}" for k in seen} | {f"heard_{k}" for k in sounding}
            expected |= {f"named_{k}" for k in seen & sounding}
        assert set(row.labels) == expected
        assert len(row.labels) == len(expected)


def test_sounds_and_pictures_overlap_well_or_not_at_all() -> None:
    overlaps = [
        min(shown.end_seconds, heard.end_seconds) - max(shown.start_seconds, heard.start_seconds)
        for timeline in timelines(SMALL, "train", draw_tones(0), 100)
        for shown in timeline.shown
        for heard in timeline.heard
    ]
    near = [seconds for seconds in overlaps if seconds > -1]
    assert len(near) > 400
    assert all(seconds >= 0.1 or seconds <= 0 for seconds in near)


def test_events_stay_in_their_clip() -> None:
    for timeline in timelines(SMALL, "val", draw_tones(0), 100):
        for event in (*timeline.shown, *timeline.heard):
            assert 0 <= event.start_seconds < event.end_seconds <= timeline.seconds


def test_a_shown_digit_is_in_the_frames_of_its_time(small: dict[str, list[Row]]) -> None:
    rows = small["train"]
    for row, timeline in zip(
        rows, timelines(SMALL, "train", draw_tones(0), len(rows)), strict=True
    ):
        frames = np.asarray(row.tokens["visual"], float)
        on_screen = np.zeros(len(frames), bool)
        for event in timeline.shown:
            first, end = np.ceil(np.array([event.start_seconds, event.end_seconds]) * 5 - 0.5)
            on_screen[int(first) : int(end)] = True
            for frame in frames[int(first) : int(end)]:
                assert np.corrcoef(frame, event.content)[0, 1] > 0.8
        blank = frames[~on_screen]
        assert blank.mean() < 0.06
        assert len(np.unique(blank, axis=0)) == len(blank)


def test_shown_and_heard_alone_do_not_tell_named(training_rows: list[Row]) -> None:
    both = [
        f"named_{k}" in row.labels
        for row in training_rows
        for k in range(10)
        if {f"shown_{k}", f"heard_{k}"} <= set(row.labels)
    ]
    assert len(both) > len(training_rows)
    assert 0.4 < np.mean(both) < 0.5
    assert 0.03 < np.mean([not row.labels for row in training_rows]) < 0.09


@pytest.mark.parametrize(("agreement", "expected"), [(0.0, False), (1.0, True)])
def test_agreement_decides_what_a_slot_says(agreement: float, expected: bool) -> None:
    config = DigitsConfig(train_clips=25, agreement=agreement)
    labels = [label for row in digits(config).splits["train"] for label in row.labels]
    assert any(label.startswith("named") for label in labels) == expected
    if expected:
        for timeline in timelines(config, "train", draw_tones(0), 25):
            for heard in timeline.heard:
                for shown in timeline.shown:
                    apart = (
                        heard.end_seconds < shown.start_seconds
                        or shown.end_seconds < heard.start_seconds
                    )
                    assert apart or heard.digit == shown.digit


def test_vocabulary_has_three_groups_of_ten() -> None:
    vocabulary = digits(SMALL).vocabulary
    assert len(vocabulary.names) == 30
    assert list(vocabulary.groups) == ["shown", "heard", "named"]
    assert vocabulary.groups["named"] == tuple(f"named_{k}" for k in range(10))


@pytest.mark.slow
def test_splits_share_no_picture_and_no_line(small: dict[str, list[Row]]) -> None:
    pictures: dict[str, set[bytes]] = {}
    for split in SPLITS:
        drawn = timelines(SMALL, split, draw_tones(0), 400)
        pictures[split] = {event.content.tobytes() for line in drawn for event in line.shown}
        assert len(pictures[split]) > 300
    assert not pictures["train"] & pictures["val"]
    assert not pictures["train"] & pictures["test"]
    assert not pictures["val"] & pictures["test"]
    known = {scan.astype(np.float32).tobytes() for scan in load_digits(return_X_y=True)[0] / 16}
    assert known >= pictures["train"] | pictures["val"] | pictures["test"]

    lines = {split: {row.extra["speaker"] for row in small[split]} for split in SPLITS}
    assert all(name.startswith(f"line-{split}-") for split in SPLITS for name in lines[split])
    assert len(set(draw_tones(0).lines.values())) == 24


@pytest.mark.parametrize("snr_db", [20.0, 0.0, -10.0])
def test_noise_is_at_the_stated_distance(snr_db: float) -> None:
    tones = draw_tones(0)
    timeline = next(line for line in timelines(SMALL, "train", tones, 9) if len(line.heard) > 2)
    noisy = mix(timeline, tones, snr_db, np.random.default_rng(3))
    clean = mix(timeline, tones, 200.0, np.random.default_rng(3))
    noise_power = np.mean((noisy - clean) ** 2)
    for event in timeline.heard:
        start, end = np.round(np.array([event.start_seconds, event.end_seconds]) * SAMPLE_RATE_HZ)
        power = np.mean(clean[int(start) : int(end)] ** 2)
        assert 10 * np.log10(power / noise_power) == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize(
    "settings",
    [{"train_clips": 0}, {"clip_seconds": 1.0}, {"agreement": 1.5}, {"seed": -1}, {"snr": 3}],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        DigitsConfig(**settings)
