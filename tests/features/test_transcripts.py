import math
from pathlib import Path

import numpy as np
import pytest

from raymc.errors import DataError
from raymc.features.transcripts import (
    Cue,
    find_sidecars,
    parse_plain,
    parse_timed,
    parse_transcript,
    rank_sidecars,
    read_sidecar,
    sentences_by_interval,
    texts_by_interval,
)

VTT = """WEBVTT - a title
Kind: captions

STYLE
::cue { color: red }

NOTE
a note

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Ann>Hello,</v> <i>we</i> count
to ten

00:00:03.000 --> 00:00:04.000
2 &lt; 3 &amp; 4&nbsp;&gt; 1
"""
SRT = """1
00:00:01,000 --> 00:00:02,500
Hello, <font color="red">we</font> count
to ten

2
00:00:03,000 --> 00:00:04,000
{\\an8}2 < 3 & 4 > 1
"""
CUES = (Cue(1.0, 2.5, "Hello, we count to ten"), Cue(3.0, 4.0, "2 < 3 & 4 > 1"))


@pytest.mark.parametrize("text", [VTT, SRT], ids=["vtt", "srt"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_both_formats_give_the_same_cues(text: str, newline: str, encoding: str) -> None:
    data = text.replace("\n", newline).encode(encoding)
    transcript = parse_transcript(data, "clip.vtt")
    assert transcript.cues == CUES
    assert transcript.broken == 0
    assert list(transcript) == list(CUES)
    assert len(transcript) == 2


def test_a_name_from_a_mac_is_the_same() -> None:
    assert rank_sidecars("\u00dc.mp4", ["U\u0308.en.vtt"]) == ["U\u0308.en.vtt"]
    assert rank_sidecars("U\u0308.mp4", ["\u00dc.vtt"]) == ["\u00dc.vtt"]


def test_letters_of_older_editors_are_read() -> None:
    text = SRT.replace("Hello", "Voilà")
    assert parse_transcript(text.encode("cp1252"), "a.srt").cues[0].text.startswith("Voilà, we")


@pytest.mark.parametrize(
    ("block", "cues", "broken"),
    [
        ("01:02:03.500 --> 01:02:04.000\nlate", [(3723.5, 3724.0, "late")], 0),
        ("100:00:00.000 --> 100:00:01.000\nlater", [(360_000.0, 360_001.0, "later")], 0),
        ("0:0:1,5 --> 0:0:2\nsloppy", [(1.5, 2.0, "sloppy")], 0),
        ("  00:01.000-->00:02.000  \ntight", [(1.0, 2.0, "tight")], 0),
        ("00:01.000 --> 00:01.000\nnow", [(1.0, 1.0, "now")], 0),
        ("00:02.000 --> 00:01.000\nbackwards", [], 1),
        ("00:0x.000 --> 00:01.000\nletters", [], 1),
        ("00:01.000 -->\nopen", [], 1),
        ("--> \n", [], 1),
        ("00:01.000 --> 00:02.000\n", [], 0),
        ("00:01.000 --> 00:02.000\n<b></b>\n", [], 0),
        ("7\n00:01.000 --> 00:02.000\n42\n\n8\n", [(1.0, 2.0, "42")], 0),
        (
            "1\n00:01.000 --> 00:02.000\none\n2\n00:02.000 --> 00:03.000\ntwo",
            [(1.0, 2.0, "one"), (2.0, 3.0, "two")],
            0,
        ),
        (
            "00:05.000 --> 00:06.000\nb\n\n00:99 --> x\nlost\n\n00:01.000 --> 00:02.000\na",
            [(1.0, 2.0, "a"), (5.0, 6.0, "b")],
            1,
        ),
        (
            "00:01.000 --> 00:02.000\nNo.\n\n00:02.000 --> 00:03.000\nNo.",
            [(1.0, 2.0, "No."), (2.0, 3.0, "No.")],
            0,
        ),
        ("no cue at all\n\nbut text", [], 1),
        (
            "1\n00:01.0 --> 00:02.0\nwe count\n\n7\n\n2\n00:03.0 --> 00:04.0\non",
            [(1.0, 2.0, "we count 7"), (3.0, 4.0, "on")],
            0,
        ),
        ("", [], 0),
    ],
)
def test_odd_cues(block: str, cues: list[tuple[float, float, str]], broken: int) -> None:
    found, count = parse_timed(block)
    assert [(cue.start_seconds, cue.end_seconds, cue.text) for cue in found] == cues
    assert count == broken


def test_scrolling_captions_tell_each_word_once_and_when() -> None:
    text = """WEBVTT

00:00:00.000 --> 00:00:02.000 align:start position:0%
 \nlet's<00:00:00.500><c> count</c><00:00:01.500><c> now</c>

00:00:02.000 --> 00:00:02.010 align:start position:0%
let's count now
 \n
00:00:02.010 --> 00:00:04.000 align:start position:0%
let's count now
one<00:00:03.000><c> two</c>

00:00:06.000 --> 00:00:07.000
one two
"""
    cues, broken = parse_timed(text)
    assert [(cue.start_seconds, cue.end_seconds, cue.text) for cue in cues] == [
        (0.0, 0.5, "let's"),
        (0.5, 1.5, "count"),
        (1.5, 2.0, "now"),
        (2.01, 3.0, "one"),
        (3.0, 4.0, "two"),
        (6.0, 7.0, "one two"),  # said again
    ]
    assert broken == 0


def times(text: str) -> list[tuple[float, float, str]]:
    cues, _ = parse_timed(text)
    return [(round(cue.start_seconds, 3), cue.end_seconds, cue.text) for cue in cues]


BLANKS = """1
00:00:00,500 --> 00:00:02,000
first line

second line

2
00:00:03,000 --> 00:00:04,000

after a blank

3
00:00:05,000 --> 00:00:06,000
kept

"""


def test_empty_lines_inside_cues() -> None:
    expected = [(0.5, 2, "first line second line"), (3, 4, "after a blank"), (5, 6, "kept")]
    assert times(BLANKS) == expected
    vtt = "WEBVTT\n\nSTYLE\n::cue {}\n\n" + BLANKS.replace(",", ".")
    named = vtt.replace("\n2\n", "\nNOTE two\nnotes\n\nthe second\n")
    assert times(vtt) == times(named) == expected


@pytest.mark.parametrize(
    "line",
    ["a --> b", "1 --> 2", "--> so", "so -->", "5:00 --> 6:00 is lunch", "x = y --> z = 1:2"],
)
def test_arrows_in_a_text(line: str) -> None:
    timed = "{}\n00:01.000 --> 00:02.000\nwe say\n{}\n\n{}\n00:03.000 --> 00:04.000\nlast\n"
    for text in (timed.format(1, line, 2), "WEBVTT\n\n" + timed.format("one", line, "two")):
        assert times(text) == [(1, 2, f"we say {line}"), (3, 4, "last")]
        assert parse_timed(text)[1] == 0


def test_captions_that_roll_without_times_of_words() -> None:
    rolling = """1
00:00:00,000 --> 00:00:01,670
hi guys my name is

2
00:00:01,670 --> 00:00:01,680
hi guys my name is
{space}

3
00:00:01,680 --> 00:00:03,830
hi guys my name is
Roger

4
00:00:03,830 --> 00:00:03,840
Roger
{space}
""".format(space=" ")
    assert times(rolling) == [(0, 1.67, "hi guys my name is"), (1.68, 3.83, "Roger")]
    lines = ["one", "two", "three", "four"]
    cues = [f"{k}\n0:0:{k} --> 0:0:{k + 1}\n{lines[k - 1]}\n{lines[k]}\n" for k in range(1, 4)]
    assert times("\n".join(cues)) == [(1, 2, "one two"), (2, 3, "three"), (3, 4, "four")]
    grown = ["we", "we count", "we count to", "we count to ten"]
    cues = [f"{k}\n0:0:{k} --> 0:0:{k + 1}\n{text}\n" for k, text in enumerate(grown)]
    assert [text for _, _, text in times("\n".join(cues))] == ["we", "count", "to", "ten"]


def test_people_repeat_themselves() -> None:
    said = ["No.", "No.", "Yes.\nNo.", "No.\nNever.", "One", "One two", "Six", "Seven", "Eight"]
    cues = [f"{k}\n0:0:{k} --> 0:0:{k + 1}\n{text}\n" for k, text in enumerate(said)]
    assert [text for _, _, text in times("\n".join(cues))] == [" ".join(x.split()) for x in said]


def test_texts_in_other_encodings() -> None:
    for text, encoding in (
        ("Привет", "cp1251"),
        ("Größe zählen", "mac_roman"),
        ("数を数える", "cp932"),
    ):
        data = f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n".encode(encoding)
        assert parse_transcript(data, "a.srt").cues == (Cue(1.0, 2.0, text),)


@pytest.mark.parametrize(
    ("files", "language", "ranked"),
    [
        ("a.VTT", "", "a.VTT"),
        ("a.en-US.vtt", "", "a.en-US.vtt"),
        ("a.zh-Hans.vtt a.de.vtt", "", "a.de.vtt a.zh-Hans.vtt"),
        ("a.de.vtt a.en-US.vtt a.en.srt", "", "a.en.srt a.en-US.vtt a.de.vtt"),
        ("a.txt a.de.vtt a.srt a.vtt", "", "a.vtt a.srt a.de.vtt a.txt"),
        ("a.de.vtt a.en.vtt a.vtt", "de", "a.de.vtt a.vtt"),
        ("a.de-AT.vtt a.deu.vtt", "de", "a.de-AT.vtt"),
        ("a.en.vtt", "de", ""),
        ("a.en.forced.srt a.en.cc.vtt", "", "a.en.cc.vtt a.en.forced.srt"),
        ("a.de.mp4 a.de.vtt a.vtt", "", "a.vtt"),
        ("a.mp4.vtt a.en.vtt", "", "a.mp4.vtt a.en.vtt"),
        ("b.vtt ab.vtt a.b.vtt a.lesson1.vtt a.json a.vtt.bak", "", ""),
    ],
)
def test_which_text_is_taken(files: str, language: str, ranked: str) -> None:
    names = ["a.mp4", *files.split()]
    assert rank_sidecars("a.mp4", names, language) == ranked.split()


def test_texts_beside_media_at_an_address(tmp_path: Path) -> None:
    for name in ("x/a.mp4", "x/a.EN.VTT", "b.mp4", "b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(VTT)
    media = [f"{tmp_path}/x/a.mp4", f"file://{tmp_path}/b.mp4", f"{tmp_path}/none/c.mp4"]
    assert list(find_sidecars(media).values()) == [["a.EN.VTT"], ["b.txt"], []]
    found = read_sidecar(media[0])
    assert found is not None
    assert found.path.endswith("/a.EN.VTT")
    assert read_sidecar(media[0], language="de") is None


def test_an_untimed_text_is_spread_over_the_video() -> None:
    assert parse_plain("one\n two\r\nthree four\n", 8.0) == (Cue(0.0, 8.0, "one two three four"),)
    assert texts_by_interval(parse_plain("one two three four", 8.0), 0.0, 8.0, 0.5) == [
        *("one", "two", "three", "four"),
    ]
    assert texts_by_interval(parse_plain("one two three four", 8.0), 4.0, 8.0, 0.5) == [
        "three",
        "four",
    ]
    assert parse_plain("one two") == (Cue(0.0, math.inf, "one two"),)
    assert texts_by_interval(parse_plain("one two"), 2.0, 6.0, 0.5) == ["one", "two"]
    assert parse_plain(" \n", 8.0) == ()


def slow_texts(
    cues: list[Cue], start_seconds: float, end_seconds: float, rate_hz: float
) -> list[str]:
    texts = []
    for interval in range(math.ceil((end_seconds - start_seconds) * rate_hz)):
        low = start_seconds + interval / rate_hz
        high = min(low + 1 / rate_hz, end_seconds)
        words = []
        for cue in cues:
            spoken = cue.text.split()
            share = (cue.end_seconds - cue.start_seconds) / max(len(spoken), 1)
            middles = [cue.start_seconds + (i + 0.5) * share for i in range(len(spoken))]
            words += [word for word, middle in zip(spoken, middles) if low <= middle < high]
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("seed", range(5))
def test_words_fall_into_their_intervals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.uniform(-2, 20, 15))
    cues = [
        Cue(start, start + rng.uniform(0, 4), " ".join(f"w{i}-{j}" for j in range(rng.integers(6))))
        for i, start in enumerate(starts.tolist())
    ]
    for start, end, rate_hz in ((0.0, 18.0, 1.0), (2.5, 11.2, 0.37), (1.1, 9.9, 5.0)):
        found = texts_by_interval(cues, start, end, rate_hz)
        assert found == slow_texts(cues, start, end, rate_hz)


@pytest.mark.parametrize(
    ("start", "end", "rate_hz", "intervals"),
    [(0, 3, 1, 3), (0, 3.1, 1, 4), (0.1, 0.7, 10, 6), (0, 0, 1, 0), (5, 4, 1, 0), (0, 2, 0.2, 1)],
)
def test_the_number_of_intervals(start: float, end: float, rate_hz: float, intervals: int) -> None:
    assert texts_by_interval([], float(start), float(end), float(rate_hz)) == [""] * intervals


def test_a_word_at_the_very_end_stays_out() -> None:
    cues = [Cue(1.0, 1.0, "last"), Cue(0.999, 0.999, "inside")]
    assert texts_by_interval(cues, 0.0, 1.0, 10.0) == [*[""] * 9, "inside"]


def test_the_file_beside_a_video(tmp_path: Path) -> None:
    video = tmp_path / "a.b.mp4"
    assert read_sidecar(str(video)) is None
    (tmp_path / "a.b.txt").write_text("untimed words")
    untimed = read_sidecar(str(video), duration_seconds=4.0)
    assert untimed is not None
    assert untimed.cues == (Cue(0.0, 4.0, "untimed words"),)
    (tmp_path / "a.b.en.vtt").write_text(VTT)
    (tmp_path / "a.b.srt").write_text(SRT + "\n3\n00:00:09 --> 00:00:08\nbroken\n")
    (tmp_path / "a.srt").write_text("of another video")
    found = read_sidecar(f"file://{video}")
    assert found is not None
    assert (found.cues, found.broken) == (CUES, 1)
    assert found.path == str(tmp_path / "a.b.srt")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_bytes(b"\x00\x01\x02\x00")
    with pytest.raises(
        DataError, match=r"a.vtt: not a text; expected WebVTT, SubRip or plain text"
    ):
        read_sidecar(str(tmp_path / "a.mp4"))


def test_a_sentence_stays_whole_in_the_interval_of_its_middle() -> None:
    cues = [Cue(0.0, 3.0, "Look here! This is the letter B."), Cue(3.5, 9.0, "It says 3.5, buh.")]
    # middles: 1/7 of 3 s, 4.5/7 of 3 s, and 6.25 s
    assert sentences_by_interval(cues, 7.0, 1.0) == [
        *("Look here!", "This is the letter B.", "", "", "", "", "It says 3.5, buh."),
    ]
    assert sentences_by_interval(cues, 6.0, 0.25) == ["Look here! This is the letter B.", ""]
    assert sentences_by_interval([], 2.5, 1.0) == ["", "", ""]
