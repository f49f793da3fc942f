"""What ELAN, BORIS and Label Studio write: spans of videos with their codes become clips."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    tiers = {"labels": "talk"}
    assert seen(list_media(ExtractConfig(source=str(tmp_path / "a.eaf"), columns=tiers))) == [
        ("a b.mp4", 0, 1.5, ("talk",))
    ]
    with pytest.raises(RaymcError, match="no tier 'tlak'; there are activity, talk"):
        list_media(ExtractConfig(source=str(tmp_path / "a.eaf"), columns={"labels": "tlak"}))
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


def test_spans_of_elan_overlap(tmp_path: Path) -> None:
    """A span has the codes of those that nearly cover it, and of the annotation it refers to."""
    eaf = pympi.Eaf()
    eaf.remove_tier("default")
    eaf.add_linguistic_type("of", constraints="Symbolic_Association", timealignable=False)
    eaf.add_linked_file("file:///C:/ann/v.mp4", relpath="../old/v.mp4", mimetype="video/mp4")
    for tier, parent in (("activity", None), ("talk", None), ("place", "activity")):
        eaf.add_tier(tier, ling="of" if parent else "default-lt", parent=parent)
    eaf.add_annotation("activity", 0, 10_000, "counting")
    eaf.add_annotation("activity", 10_000, 20_000, "shapes")
    eaf.add_ref_annotation("place", "activity", 5000, "board")
    eaf.add_annotation("talk", 2000, 4000, "pupil")
    eaf.add_annotation("talk", 8000, 10_100, "both")
    eaf.add_annotation("talk", 9000, 13_000, "alone")
    eaf.add_annotation("talk", 10_050, 20_000, "teacher")
    eaf.to_file(str(tmp_path / "a.eaf"))
    (tmp_path / "v.mp4").touch()  # not where ELAN had it, but beside the file
    listing = listed(tmp_path / "a.eaf")
    assert sorted(seen(listing)) == [
        ("v.mp4", 0, 10, ("counting", "board")),
        ("v.mp4", 2, 4, ("pupil", "counting", "board")),
        ("v.mp4", 8, 10.1, ("both", "counting", "board")),
        ("v.mp4", 9, 13, ("alone",)),
        ("v.mp4", 10, 20, ("shapes", "teacher")),
        ("v.mp4", 10.05, 20, ("teacher", "shapes")),
    ]
    assert listing.sources[0].path == f"{tmp_path}/v.mp4"
    assert "labels of spans that others nearly cover: 6 more" in listing.lines[0]
    empty = pympi.Eaf()
    empty.add_linked_file("file:///v.mp4", mimetype="video/mp4")
    empty.to_file(str(tmp_path / "b.eaf"))
    both = listed(tmp_path / "*.eaf")
    assert len(both.sources) == 6
    assert "no codes in b.eaf" in both.lines[0]


def test_label_studio(tmp_path: Path) -> None:
    def result(kind: str, value: Mapping[str, object]) -> dict[str, object]:
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


# Written by label-studio-sdk 2.1.2, shortened: `tl` labels frames, `topic` and `one` are choices.
JSON_MIN = """[
{"title": "Lesson 1. Counting", "video": "\\/data\\/upload\\/3\\/1a2b3c4d-lesson_1.mp4", "fps": 25,
 "id": 1, "tl": [{"ranges": [{"start": 1, "end": 50}], "timelinelabels": ["counting"]}],
 "topic": {"choices": ["math", "letters"]}, "one": "a",
 "lab": [{"start": 0.5, "end": 2.0, "channel": 0, "labels": ["talk"]}],
 "annotator": 1, "annotation_id": 11, "created_at": "2026-01-01T00:00:00Z", "lead_time": 1},
{"video": "https:\\/\\/example.org\\/b.mp4?x=1", "id": 2, "annotator": 1, "annotation_id": 14,
 "created_at": "2026-01-01T00:00:00Z", "lead_time": 1}
]"""


def test_other_exports_of_label_studio(tmp_path: Path) -> None:
    """Uploads have a prefix, minimal tasks no types; two annotators disagree, a third cancels."""
    clips = [
        ("lesson_1.mp4", 0, 2, ("counting",)),
        ("lesson_1.mp4", 0, None, ("math", "letters", "a")),
        ("lesson_1.mp4", 0.5, 2, ("talk", "counting")),
    ]
    (tmp_path / "min.json").write_text(JSON_MIN)
    listing = listed(tmp_path / "min.json")
    assert seen(listing) == clips
    assert listing.sources[0].path == f"{tmp_path}/lesson_1.mp4"
    assert "JSON-MIN, in which texts count as labels; tasks without labels" in listing.lines[0]
    (tmp_path / "1a2b3c4d-lesson_1.mp4").touch()
    assert seen(listed(tmp_path / "min.json"))[0][0] == "1a2b3c4d-lesson_1.mp4"

    def choice(name: str, **more: Any) -> dict[str, Any]:
        value = {"choices": [name]}
        return {"result": [{"type": "choices", "value": value}], **more}

    letters = {"type": "labels", "value": {"start": 1, "end": 9, "text": "x", "labels": ["noun"]}}
    done = [choice("math"), choice("art"), choice("no", was_cancelled=True), {"result": [letters]}]
    task = {"data": {"about": "v. 2/3", "video": "https://x.org/b.mp4?y=1"}, "annotations": done}
    (tmp_path / "full.json").write_text(json.dumps([task]))
    listing = listed(tmp_path / "full.json")
    assert [(s.path, s.labels) for s in listing.sources] == [
        ("https://x.org/b.mp4?y=1", ("math", "art"))
    ]
    assert (
        "tasks of several annotators have the labels of all (1); not read: labels 1"
        in (listing.lines[0])
    )
    task["data"] = {"left": "a.mp4", "right": "b.mp4"}
    (tmp_path / "full.json").write_text(json.dumps([task]))
    with pytest.raises(RaymcError, match=r"task 1 names several files \(a.mp4, b.mp4\); split"):
        listed(tmp_path / "full.json")
    (tmp_path / "t.csv").write_text("annotation_id,annotator,id,lead_time,topic,video\n1,1,1,1,x,v")
    with pytest.raises(RaymcError, match=r"does not say which texts are labels; export JSON inst"):
        listed(tmp_path / "t.csv")


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
    (tmp_path / name).write_text(text.replace("\t33.000", "\t99.000").replace(",33.000", ",99.000"))
    listing = listed(tmp_path / name)
    assert ("lesson 2.mp4", 10, 30, ("counting",)) in seen(listing)
    assert "events that last longer than their media are cut (1)" in listing.lines[0]


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
            "line 6: 'shapes' has a STOP, but no START; correct it in BORIS",
        ),
        (
            ("pupil,shapes,math,,STOP", "pupil,shapes,math,,START"),
            "line 5: 'shapes' has a START, but no STOP",
        ),
        (("teacher,counting,math,,STOP,33", "x,x,,,POINT,33"), "line 7: 'counting' has a START, b"),
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
