"""What ELAN, BORIS and Label Studio write: spans of videos with their codes become clips."""

import json
from pathlib import Path

import pympi
import pytest

from raymc.config import ExtractConfig
from raymc.errors import RaymcError
from raymc.features.sources import Listing, list_media


def listed(file: Path) -> Listing:
    return list_media(ExtractConfig(source=str(file), split="none"))


def seen(listing: Listing) -> list[tuple[str, float, float | None, tuple[str, ...]]]:
    return [(Path(s.path).name, s.start_seconds, s.end_seconds, s.labels) for s in listing.sources]


def test_elan(tmp_path: Path) -> None:
    eaf = pympi.Eaf()
    eaf.remove_tier("default")
    eaf.add_linked_file("file:///videos/a b.mp4", relpath="./a%20b.mp4", mimetype="video/mp4")
    for tier in ("activity", "talk"):
        eaf.add_tier(tier)
    eaf.add_annotation("activity", 0, 1500, "counting")
    eaf.add_annotation("activity", 1500, 4000, "shapes, big")
    eaf.add_annotation("talk", 0, 1500, "")
    eaf.to_file(str(tmp_path / "a.eaf"))
    listing = listed(tmp_path / "a.eaf")
    assert seen(listing) == [
        ("a b.mp4", 0, 1.5, ("counting", "talk")),
        ("a b.mp4", 1.5, 4, ("shapes, big",)),
    ]
    assert listing.sources[0].path == f"{tmp_path}/a b.mp4"
    assert "2 rows; tiers activity, talk; path" in listing.lines[0]
    (tmp_path / "deep").mkdir()
    eaf.to_file(str(tmp_path / "deep" / "d.eaf"))
    both = listed(tmp_path / "**" / "*.eaf")
    assert [source.path for source in both.sources] == [
        *[f"{tmp_path}/a b.mp4"] * 2,
        *[f"{tmp_path}/deep/a b.mp4"] * 2,
    ]
    assert "4 rows; 2 tables; tiers activity, talk; path" in both.lines[0]
    (tmp_path / "b.eaf").write_text("<no>eaf</no>")
    with pytest.raises(RaymcError, match="can't be read as an ELAN file; save it again"):
        listed(tmp_path / "b.eaf")
    pympi.Eaf().to_file(str(tmp_path / "c.eaf"))
    with pytest.raises(RaymcError, match="names no media file; link the video in ELAN"):
        listed(tmp_path / "c.eaf")


def test_label_studio(tmp_path: Path) -> None:
    def result(kind: str, value: dict[str, object]) -> dict[str, object]:
        return {"type": kind, "value": value, "from_name": "x", "to_name": "video"}

    spoken = {"start": 0.5, "end": 2, "labels": ["counting"]}
    tasks = [
        {
            "data": {"video": "/data/local-files/?d=lessons/a.mp4"},
            "annotations": [
                {"result": [result("labels", spoken), result("labels", spoken | {"labels": ["x"]})]}
            ],
        },
        {
            "data": {"n": 1, "video": "b.mp4"},
            "annotations": [
                {"was_cancelled": True, "result": [result("choices", {"choices": ["no"]})]},
                {"result": [result("choices", {"choices": ["letters", "shapes"]})]},
            ],
        },
        {"data": {"video": "c.mp4"}, "annotations": []},
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    listing = listed(tmp_path / "tasks.json")
    assert seen(listing) == [
        ("a.mp4", 0.5, 2, ("counting", "x")),
        ("b.mp4", 0, None, ("letters", "shapes")),
    ]
    assert "1 tasks without labels are left out" in listing.lines[0]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks[2:]))
    with pytest.raises(RaymcError, match="no span of a video has a label"):
        listed(tmp_path / "tasks.json")


FOUND = [("a.mp4", 0.5, 2, ("counting", "pointing")), ("a.mp4", 2.5, 4.25, ("pointing",))]


def test_boris_aggregated(tmp_path: Path) -> None:
    headings = "Observation id,Media file name,Subject,Behavior,Behavior type,Start (s),Stop (s)"
    rows = ["o,a.mp4,x,counting,STATE,0.5,2", "o,a.mp4,x,pointing,STATE,0.5,2"]
    rows += ["o,a.mp4,x,pointing,STATE,2.5,4.25", "o,a.mp4,x,nod,POINT,3,NA"]
    (tmp_path / "events.csv").write_text("\n".join([headings, *rows]))
    listing = listed(tmp_path / "events.csv")
    assert seen(listing) == FOUND
    assert "2 rows; events of BORIS; 1 codes without length are left out" in listing.lines[0]


def test_boris_events(tmp_path: Path) -> None:
    headings = "Time\tMedia file path\tSubject\tBehavior\tBehavior type"
    rows = ["0.5\tcounting\tSTART", "0.5\tpointing\tSTART", "2\tcounting\tSTOP"]
    rows += ["2\tpointing\tSTOP", "2.5\tpointing\tSTART", "3\tnod\tPOINT", "4.25\tpointing\tSTOP"]
    lines = [row.replace("\t", "\ta.mp4\tx\t", 1) for row in rows]
    (tmp_path / "events.tsv").write_text("\n".join([headings, *lines]))
    assert seen(listed(tmp_path / "events.tsv")) == FOUND
    (tmp_path / "events.tsv").write_text("\n".join([headings, *lines[:-1]]))
    with pytest.raises(RaymcError, match=r"'pointing' in a.mp4 has a START, but no STOP; add it"):
        listed(tmp_path / "events.tsv")
