import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from raymc.config import CoinConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, open_dataset, write_dataset
from raymc.errors import DataError
from raymc.formats.coin import coin
from raymc.formats.recipe import make_dataset

RNG = np.random.default_rng(0)
STEPS = {1: "peel", 2: "cut in half", 11: "peel", 3: "WashHair"}


def video(task: str, subset: str, *steps: tuple[int, float, float], **changes: Any) -> dict:
    annotation = [
        {"id": str(number), "label": STEPS[number], "segment": [start, end]}
        for number, start, end in steps
    ]
    return {
        "recipe_type": 1,
        "class": task,
        "subset": subset,
        "duration": 90.5,
        "video_url": f"https://www.youtube.com/embed/{task}",
        "annotation": annotation,
        "start": 3.0,
        "end": 80.0,
        **changes,
    }


VIDEOS: dict[str, dict] = {
    "a": video("WashHair", "training", (1, 0, 10), (2, 30, 45), (1, 70, 75)),
    "b": video("CutMango", "testing", (11, 5, 35), (3, 60, 60)),
    "c": video("CutMango", "training", (2, 20, 12)),
    "d": video("WashHair", "testing"),
    "e": video("ArcWeld", "testing", (2, 1, 2)),
}
CLIPS = ["a@0-30", "a@30-60", "a@60-90", "b", "c@0-15", "c@20-30", "d"]


def annotations(folder: Path, videos: object = VIDEOS) -> str:
    (folder / "COIN.json").write_text(json.dumps({"database": videos}))
    return str(folder / "COIN.json")


def features(folder: Path, clips: Sequence[Row | str] = CLIPS) -> str:
    rows = [clip if isinstance(clip, Row) else row(clip) for clip in clips]
    write_dataset(
        str(folder),
        {"all": rows},
        vocabulary=Vocabulary(("none",)),
        modalities=[Modality("visual", 4)],
        shard_rows=4,
    )
    return str(folder)


def row(name: str, **extra: Any) -> Row:
    return Row(name, (), {"visual": RNG.normal(size=(2, 4)).astype("f2")}, extra=extra)


def config(tmp_path: Path, **settings: Any) -> CoinConfig:
    return CoinConfig(
        annotations=annotations(tmp_path), features=features(tmp_path / "features"), **settings
    )


def labels_of(config: CoinConfig) -> dict[str, list[str]]:
    return {row.id: list(row.labels) for rows in coin(config).splits.values() for row in rows}


def test_clips_have_the_task_of_their_video(tmp_path: Path) -> None:
    settings = config(tmp_path, val_share=0)
    recipe = coin(settings)
    assert recipe.vocabulary.names == ("CutMango", "WashHair")
    assert {split: [row.id for row in rows] for split, rows in recipe.splits.items()} == {
        "train": ["a@0-30", "a@30-60", "a@60-90", "c@0-15", "c@20-30"],
        "test": ["b", "d"],
    }
    for name, labels in labels_of(settings).items():
        assert labels == [VIDEOS[name[0]]["class"]]
    assert recipe.splits["test"][0].extra == {
        "video": "b",
        "url": "https://www.youtube.com/embed/CutMango",
    }
    make_dataset(recipe, str(tmp_path / "coin"))
    assert open_dataset(str(tmp_path / "coin")).manifest.rows("train") == 5


@pytest.mark.parametrize(("kind", "first"), [("steps", 0), ("both", 1)])
def test_clips_have_the_steps_that_overlap_them(tmp_path: Path, kind: Any, first: int) -> None:
    settings = config(tmp_path, labels=kind)
    expected = {
        "a@0-30": ["peel [1]"],  # the next step begins where this clip ends
        "a@30-60": ["cut in half"],
        "a@60-90": ["peel [1]"],
        "b": ["peel [11]", "WashHair" if kind == "steps" else "WashHair [3]"],
        "c@0-15": ["cut in half"],
        "c@20-30": [],
        "d": [],
    }
    tasks = {name: [VIDEOS[name[0]]["class"]][:first] for name in expected}
    assert labels_of(settings) == {name: tasks[name] + expected[name] for name in expected}
    vocabulary = coin(settings).vocabulary
    names = vocabulary.names
    steps = ("peel [1]", "cut in half", expected["b"][1], "peel [11]")
    assert names == (*(("CutMango", "WashHair") * first), *steps)
    of_wash_hair = {"peel [1]": "WashHair"} if kind == "both" else {}  # else that is a step
    of_cut_mango = {expected["b"][1]: "CutMango", "peel [11]": "CutMango"}
    assert vocabulary.parents == of_wash_hair | of_cut_mango


def test_columns_of_time_go_before_ids(tmp_path: Path) -> None:
    rows = [
        row("a@0-30", start_seconds=0.0, end_seconds=30.5),
        row("b", start_seconds=36.0, end_seconds=50.0),
    ]
    settings = CoinConfig(
        annotations=annotations(tmp_path), features=features(tmp_path / "f", rows), labels="steps"
    )
    assert labels_of(settings) == {"a@0-30": ["peel [1]", "cut in half"], "b": []}


def test_steps_agree_with_brute_force(tmp_path: Path) -> None:
    videos = {}
    for k in range(30):
        starts = RNG.integers(0, 90, 4)
        lengths = RNG.integers(1, 20, 4)
        steps = zip(RNG.integers(1, 4, 4).tolist(), starts.tolist(), lengths.tolist())
        videos[f"v{k}"] = video("T", "testing", *((n, s, s + length) for n, s, length in steps))
    clips = [f"{name}@{at}-{at + 10}" for name in videos for at in range(0, 100, 10)]
    settings = CoinConfig(
        annotations=annotations(tmp_path, videos),
        features=features(tmp_path / "f", clips),
        labels="steps",
    )
    for name, labels in labels_of(settings).items():
        found, _, window = name.partition("@")
        start, end = map(int, window.split("-"))
        seconds = {second + 0.5 for second in range(start, end)}
        expected = {
            step["label"]
            for step in videos[found]["annotation"]
            if any(step["segment"][0] < second < step["segment"][1] for second in seconds)
        }
        assert set(labels) == expected
        assert len(labels) == len(expected)


def many() -> dict[str, dict]:
    counts = {"A": 40, "B": 11, "C": 3}
    return {
        f"{task}{i}": video(task, subset)
        for task, count in counts.items()
        for subset, ids in (("training", range(count)), ("testing", range(count, count + 5)))
        for i in ids
    }


def held_out(tmp_path: Path, **settings: Any) -> dict[str, set[str]]:
    recipe = coin(CoinConfig(annotations=str(tmp_path / "COIN.json"), **settings))
    return {split: {row.id for row in rows} for split, rows in recipe.splits.items()}


def test_val_is_the_same_share_of_every_class(tmp_path: Path) -> None:
    videos = many()
    annotations(tmp_path, videos)
    address = features(tmp_path / "all", list(videos))
    found = held_out(tmp_path, features=address)
    assert Counter(name[0] for name in found["val"]) == {"A": 4, "B": 1}
    for split, subset in (("test", "testing"), ("train", "training")):
        assert {videos[name]["subset"] for name in found[split]} == {subset}
    assert found["val"] | found["train"] | found["test"] == set(videos)
    assert len(found["val"]) + len(found["train"]) + len(found["test"]) == len(videos)
    assert held_out(tmp_path, features=address) == found
    assert held_out(tmp_path, features=address, seed=1)["val"] != found["val"]
    half = held_out(tmp_path, features=address, val_share=0.5)
    assert Counter(name[0] for name in half["val"]) == {"A": 20, "B": 6, "C": 2}


def test_what_is_held_out_does_not_depend_on_the_features(tmp_path: Path) -> None:
    videos = many()
    annotations(tmp_path, videos)
    found = held_out(tmp_path, features=features(tmp_path / "all", list(videos)), val_share=0.3)
    some = list(videos)[::-2]
    fewer = held_out(tmp_path, features=features(tmp_path / "some", some), val_share=0.3)
    assert fewer == {split: names & set(some) for split, names in found.items()}


def test_what_is_odd_stands_in_the_notes(tmp_path: Path) -> None:
    renamed = [{"id": 2, "label": " halve ", "segment": [0, 5]}]
    videos = {**VIDEOS, "f": video("CutMango", "testing", annotation=renamed)}
    settings = CoinConfig(
        annotations=annotations(tmp_path, videos),
        features=features(tmp_path / "f", [*CLIPS, "f", "stranger@0-1"]),
        labels="both",
        val_share=0.5,
    )
    recipe = coin(settings)
    assert recipe.provenance["notes"] == [
        "COIN has no validation split: 2 of its 2 training videos are held out as val, 0.5 of each "
        "class by a hash of id and seed",
        "1 segments end before they begin; read the other way round",
        "1 steps have several texts; the last one counts ('2')",
        "3 steps share their text with others; named TEXT [ID] "
        "('peel [1]', 'WashHair [3]', 'peel [11]')",
        "1 of 3 classes have no features; left out ('ArcWeld')",
        "1 of 6 videos have no features ('e')",
        "1 of the 6 videos with features are not annotated; left out ('stranger')",
    ]
    assert "halve" in recipe.vocabulary.names
    assert recipe.license == "annotations: CC BY-NC 4.0"
    notes = coin(replace(settings, val_share=0.1)).provenance["notes"]
    assert isinstance(notes, list)
    assert notes[0].startswith("COIN has no validation split: 0 of its 2 training videos")


def test_classes_too_small_for_val_are_named(tmp_path: Path) -> None:
    annotations(tmp_path, many())
    settings = CoinConfig(
        annotations=str(tmp_path / "COIN.json"), features=features(tmp_path / "f", ["A1"])
    )
    notes = coin(settings).provenance["notes"]
    assert isinstance(notes, list)
    assert notes[1] == "1 classes have too few training videos for one in val ('C')"


def changed(**changes: Any) -> Mapping[str, object]:
    return {**VIDEOS, "a": {**VIDEOS["a"], **changes}}


def with_step(**changes: Any) -> Mapping[str, object]:
    return changed(annotation=[{"id": "1", "label": "peel", "segment": [0, 1], **changes}])


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "'database' is a list; expected the object of COIN.json"),
        (None, "'database' is null; expected"),
        ({"a": [1]}, "'a' is a list; expected an object, the video's entry"),
        (changed(subset="validation"), "'a': 'subset' is 'validation'; expected training or"),
        (changed(subset=None), "'a': 'subset' is None; expected training or testing"),
        (changed(subset=["training"]), "'a': 'subset' is .*; expected training or testing"),
        (changed(**{"class": ""}), "'a': 'class' is ''; expected the name of the video's task"),
        (changed(**{"class": 3}), "'a': 'class' is 3; expected the name of the video's task"),
        (changed(annotation={}), "'a': 'annotation' is an object; expected a list of steps"),
        (changed(annotation=["cut"]), "'a': 'annotation' 0 holds 'cut'; expected id, label, and"),
        (changed(annotation=[{"id": "1"}]), "'annotation' 0 holds .*; expected id, label, and"),
        (with_step(id=None), "'annotation' 0 holds"),
        (with_step(label=" "), "'annotation' 0 holds"),
        (with_step(label=3), "'annotation' 0 holds"),
        (with_step(segment=[1]), "'annotation' 0 holds"),
        (with_step(segment=["0", "1"]), "'annotation' 0 holds"),
        (with_step(segment=[0, float("nan")]), "'annotation' 0 holds"),
        (with_step(segment=[0, 10**400]), "'annotation' 0 holds"),
        (with_step(segment=None), "'annotation' 0 holds"),
    ],
)
def test_annotations_of_another_shape(tmp_path: Path, videos: object, message: str) -> None:
    settings = replace(config(tmp_path), labels="both", annotations=annotations(tmp_path, videos))
    fails(settings, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such file"), ("{", "not JSON"), ("[]", "the JSON is a list"), ("{}", "is null")],
)
def test_files_that_are_no_annotations(tmp_path: Path, text: str | None, message: str) -> None:
    settings = config(tmp_path)
    (tmp_path / "COIN.json").unlink()
    if text is not None:
        (tmp_path / "COIN.json").write_text(text)
    fails(settings, message)


def test_features_of_other_ids(tmp_path: Path) -> None:
    settings = replace(config(tmp_path), features=features(tmp_path / "f", ["x@0-5", "y"]))
    fails(settings, "no clip belongs to a video of .*ids such as 'x', 'y', the annotations 'a'")


def test_steps_where_there_are_none(tmp_path: Path) -> None:
    settings = replace(config(tmp_path), features=features(tmp_path / "f", ["d"]), labels="steps")
    fails(settings, "no video with features has a step; set labels to class")


def fails(settings: CoinConfig, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        coin(settings)
    assert "\n" not in str(raised.value)


def test_settings_out_of_range() -> None:
    cases = ({"val_share": 1.0}, {"labels": "tasks"}, {"annotation": "x"})
    wrong: dict[str, Any]
    for wrong in cases:
        with pytest.raises(ValidationError):
            CoinConfig(annotations="a", features="b", **wrong)
