"""What ELAN, BORIS and Label Studio write: spans of videos with their codes become clips."""

import json
import re
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
    eaf.add_linked_file("file:///videos/a.wav", relpath="./a.wav", mimetype="audio/x-wav")
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
    assert "2 rows; tiers activity, talk; the first of 2 media, a b.mp4; path" in listing.lines[0]
    (tmp_path / "deep").mkdir()
    eaf.to_file(str(tmp_path / "deep" / "d.eaf"))
    both = listed(tmp_path / "**" / "*.eaf")
    assert [source.path for source in both.sources] == [
        *[f"{tmp_path}/a b.mp4"] * 2,
        *[f"{tmp_path}/deep/a b.mp4"] * 2,
    ]
    assert "4 rows; 2 tables; tiers activity, talk; the first of 2 media" in both.lines[0]
    # ELAN leaves times out within a span, and cuts the beginning off one of several media
    text = (tmp_path / "a.eaf").read_text()
    slot = re.search(r'<TIME_SLOT TIME_SLOT_ID="(\w+)" TIME_VALUE="4000" />', text)
    assert slot is not None
    text = text.replace(slot[0], f'<TIME_SLOT TIME_SLOT_ID="{slot[1]}" />')
    text = text.replace('MIME_TYPE="video/mp4"', 'MIME_TYPE="video/mp4" TIME_ORIGIN="5000"')
    (tmp_path / "a.eaf").write_text(text)
    listing = listed(tmp_path / "a.eaf")
    assert seen(listing) == [("a b.mp4", 5, 6.5, ("counting", "talk"))]
    assert "annotations without times are left out (1)" in listing.lines[0]
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
    assert "Label Studio; tasks without labels are left out (1); path" in listing.lines[0]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks[2:]))
    with pytest.raises(RaymcError, match="no span of a video has a label"):
        listed(tmp_path / "tasks.json")
    # as TimelineLabels, taxonomies and boxes are written: see the types of label-studio-sdk
    frames = {"ranges": [{"start": 1, "end": 50}, {"start": 76, "end": 100}]}
    taxonomy = {"taxonomy": [["math"], ["math", "counting"]]}
    box = {"sequence": [], "labels": ["chalk"], "framesCount": 100, "duration": 4}
    results = [
        result("timelinelabels", frames | {"timelinelabels": ["counting"]}),
        result("taxonomy", taxonomy),
        result("videorectangle", box),
    ]
    task = {"data": {"video": "a.mp4"}, "annotations": [{"result": results}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    with pytest.raises(
        RaymcError, match=r"task 1: 'counting' is from one .* add .fps. to the task"
    ):
        listed(tmp_path / "tasks.json")
    (tmp_path / "tasks.json").write_text(json.dumps([task | {"data": task["data"] | {"fps": 25}}]))
    listing = listed(tmp_path / "tasks.json")
    assert seen(listing) == [
        ("a.mp4", 0, 2, ("counting",)),
        ("a.mp4", 3, 4, ("counting",)),
        ("a.mp4", 0, None, ("math", "math > counting")),
    ]
    assert "not read: videorectangle 1" in listing.lines[0]


# Written by BORIS 8.27.4: an observation that joins two files and has a second camera. Times count
# from the beginning of the first file; `shapes` is at the end of it and the beginning of the next.
BORIS_EVENTS = """\
Observation id,Observation date,Description,Observation duration,Observation type,Source,\
Time offset (s),Media duration (s),FPS,grade,Subject,Behavior,Behavioral category,Modifier #1,\
Behavior type,Time,Media file name,Image index,Image file path,Comment
SAME,teacher,counting,math,,START,2.500,lesson 1.mp4,,NA,
SAME,teacher,counting,math,,STOP,8.000,lesson 1.mp4,,NA,
SAME,,pointing,,left,POINT,12.000,lesson 1.mp4,,NA,
SAME,pupil,shapes,math,,START,18.000,lesson 1.mp4,,NA,
SAME,pupil,shapes,math,,STOP,24.500,lesson 2.mp4,,NA,
SAME,teacher,counting,math,,START,30.000,lesson 2.mp4,,NA,
SAME,teacher,counting,math,,STOP,33.000,lesson 2.mp4,,NA,
""".replace(
    "SAME",
    "o,2026-03-02 10:00:00,two files,30.5,Media file(s),"
    "player #1:lesson 1.mp4;lesson 2.mp4|player #2:side.mp4,0.0,20.000;30.000|50.000,"
    "25.000;25.000|25.000,2",
)
BORIS_AGGREGATED = """\
Observation id\tObservation date\tDescription\tObservation type\tSource\tTime offset (s)\t\
Coding duration\tMedia duration (s)\tFPS (frame/s)\tgrade\tSubject\t\
Observation duration by subject by observation\tBehavior\tBehavioral category\tModifier #1\t\
Behavior type\tStart (s)\tStop (s)\tDuration (s)\tMedia file name
SAME\tteacher\t8.5\tcounting\tmath\t\tSTATE\t2.500\t8.000\t5.500\tlesson 1.mp4
SAME\tteacher\t8.5\tcounting\tmath\t\tSTATE\t30.000\t33.000\t3.000\tlesson 2.mp4
SAME\tpupil\t6.5\tshapes\tmath\t\tSTATE\t18.000\t24.500\t6.500\tlesson 1.mp4
SAME\tNo focal subject\t0.0\tpointing\tNot defined\tleft\tPOINT\t12.000\t12.000\tNA\tlesson 1.mp4
""".replace(
    "SAME",
    "o\t2026-03-02 10:00:00\ttwo files\tMedia file\t"
    "player #1:lesson 1.mp4;lesson 2.mp4|player #2:side.mp4\t0.0\t30.500\t"
    "20.000;30.000|50.000\t25.000;25.000|25.000\t2",
)
# With a time offset BORIS can't tell which file an event is in.
BORIS_OFFSET = (
    BORIS_EVENTS.replace("2 files", "one")
    .replace("player #1:lesson 1.mp4;lesson 2.mp4|player #2:side.mp4,0.0", "player #1:a.mp4,100.0")
    .replace("20.000;30.000|50.000", "20.000")
    .replace(",2.500,lesson 1.mp4", ",102.500,Not found")
    .replace(",8.000,lesson 1.mp4", ",108.000,Not found")
)
# As versions before 8 wrote it: a description above, `Status`, no lengths of several files.
BORIS_OLD = """\
Observation id\tobservation #1\t\t\t\t
\t\t\t\t\t
Media file(s)\t\t\t\t\t
Player #1\tlesson.mp4\t\t\t\t
independent variables\t\t\t\t\t
Time\tMedia file path\tTotal length\tSubject\tBehavior\tStatus
3.300\tlesson.mp4\t359.960\tx\tcounting\tSTART
7.750\tlesson.mp4\t359.960\tx\tcounting\tSTOP
"""


@pytest.mark.parametrize(("name", "text"), [("e.csv", BORIS_EVENTS), ("e.tsv", BORIS_AGGREGATED)])
def test_boris(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    listing = listed(tmp_path / name)
    assert sorted(seen(listing)) == [
        ("lesson 1.mp4", 2.5, 8, ("counting",)),
        ("lesson 1.mp4", 18, 20, ("shapes",)),
        ("lesson 2.mp4", 0, 4.5, ("shapes",)),
        ("lesson 2.mp4", 10, 13, ("counting",)),
    ]
    told = "4 rows; events of BORIS; codes without length are left out (1)"
    assert told in listing.lines[0]


def test_boris_with_an_offset_and_before_version_8(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("".join(BORIS_OFFSET.splitlines(keepends=True)[:3]))
    assert seen(listed(file)) == [("a.mp4", 2.5, 8, ("counting",))]
    file.write_text(BORIS_OLD)
    assert seen(listed(file)) == [("lesson.mp4", 3.3, 7.75, ("counting",))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("STOP,8.000", "STOP,eight"), "line 3: 'eight' is no time in seconds"),
        (
            ("pupil,shapes,math,,STOP", "x,shapes,math,,STOP"),
            "line 5: 'shapes' has a START, but no",
        ),
        (
            ("side.mp4,0.0", "side.mp4,10.0"),
            "line 3: 'counting' begins outside of the media, at -7.5 s",
        ),
        (("Media duration (s)", "length"), "line 2: its observation has several files, and the"),
    ],
)
def test_events_of_boris_that_cannot_be_used(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    text = BORIS_EVENTS.replace(*change)
    (tmp_path / "events.csv").write_text(text)
    with pytest.raises(RaymcError, match=message):
        listed(tmp_path / "events.csv")
    live = BORIS_EVENTS.replace("player #1:lesson 1.mp4;lesson 2.mp4|player #2:side.mp4", "NA")
    (tmp_path / "events.csv").write_text(
        live.replace("lesson 1.mp4", "NA").replace("lesson 2.mp4", "NA")
    )
    with pytest.raises(RaymcError, match="line 2: names no media file; leave live observations"):
        listed(tmp_path / "events.csv")
