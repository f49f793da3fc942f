"""Files that are damaged, or not what they seem: a failure says so, and nothing is raised."""

import os
import random
import resource
import struct
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pytest
from av.stream import Disposition
from damage import CHECKED, DAMAGES, FUZZED, flip, write_fuzzed
from media_files import Sound, Video, grey_of, write_media

from raymc.features.clips import Clip, ClipRequest, Failure, Picture
from raymc.features.decoding import reading
from raymc.features.decoding.shown import Display, PictureMaker
from raymc.features.decoding.timeline import Clock, Timeline
from raymc.features.media import read_clips
from raymc.features.sources import Source

SMALL = Picture(height=8, width=8)


def read(
    path: str | Path, *, start: float = 0.0, end: float | None = None, **wanted: Any
) -> list[Any]:
    defaults: dict[str, Any] = {"picture": SMALL, "sample_rate_hz": 8000, "fps": 2.0}
    source = Source(path=str(path), id="x", start_seconds=start, end_seconds=end)
    return list(read_clips(source, ClipRequest(**{**defaults, **wanted})))


def only_failure(path: str | Path, **wanted: Any) -> Failure:
    (failure,) = read(path, **wanted)
    assert isinstance(failure, Failure)
    assert (failure.path, failure.id) == (str(path), "x")
    return failure


def stages(clip: Clip) -> list[str]:
    return [failure.stage for failure in clip.failures]


def packet_of(path: Path, kind: str, after: float) -> tuple[int, int]:
    """Where in a file the first packet of a stream after a time stands, and its size."""
    packet: Any
    with av.open(str(path)) as container:
        for packet in container.demux(**{kind: 0}):
            if packet.pts * float(packet.time_base) >= after:
                return packet.pos, packet.size
    raise AssertionError


def spoil(path: Path, kind: str, after: float) -> None:
    at, size = packet_of(path, kind, after)
    data = bytearray(path.read_bytes())
    data[at + size // 4 : at + size // 2] = random.Random(0).randbytes(size // 2 - size // 4)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", b"", "Invalid data"),
        ("text.mp4", b"Once upon a time\n" * 99, "Invalid data"),
        ("text.txt", b"Once upon a time\n" * 99, "an audio or video file"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://nowhere.invalid/a.ts\n", "Invalid data"),
        ("zeros.mkv", bytes(5000), "Invalid data"),
        ("words.srt", b"1\n00:00:00,000 --> 00:00:01,000\nhi\n", "an audio or video file"),
    ],
)
def test_what_is_no_media_file(tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    failure = only_failure(tmp_path / name)
    assert failure.stage == "open"
    assert message in failure.error


def test_folders_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert only_failure(tmp_path / "pipe.mp4").error == "no such file"
    assert only_failure(tmp_path).error == "it is a folder"


@pytest.mark.parametrize("address", ["memory://nowhere/a.mp4", "nosuch://x/a.mp4", "a\0b.mp4"])
def test_addresses_that_lead_nowhere(address: str) -> None:
    assert only_failure(address).stage == "open"


def test_a_wrong_suffix_is_no_matter(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", Video(codec="mpeg4"))
    (clip,) = read(path.rename(tmp_path / "a.wav"), sample_rate_hz=None)
    assert clip.frames is not None
    assert clip.failures == ()


def test_a_modality_that_is_not_there(tmp_path: Path) -> None:
    sound = write_media(tmp_path / "a.mp4", sound=Sound())
    video = write_media(tmp_path / "b.mp4", Video(codec="mpeg4"))
    (clip,) = read(sound)
    assert clip.frames is None
    assert len(clip.waveform) == 32_000
    assert [(f.stage, f.error) for f in clip.failures] == [
        ("video", "the file has no video that can be decoded")
    ]
    clips = read(video, window_seconds=2.0)
    assert [stages(clip) for clip in clips] == [["audio"], ["audio"]]
    assert [clip.failures[0].id for clip in clips] == ["x@0-2", "x@2-4"]
    assert all(clip.waveform is None and clip.frames is not None for clip in clips)
    assert only_failure(sound, sample_rate_hz=None).stage == "video"
    assert only_failure(video, picture=None).stage == "audio"
    assert read(sound, picture=None)[0].failures == ()


def test_cover_pictures_are_no_video(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", sound=Sound(codec="aac"))
    data = path.read_bytes()
    covered = tmp_path / "b.m4a"
    with av.open(str(path)) as source, av.open(str(covered), "w", format="mp4") as target:
        sound = target.add_stream_from_template(source.streams.audio[0])
        cover: Any = target.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 8, 8, "rgb24"
        cover.disposition = Disposition.attached_pic
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = sound
                target.mux(packet)
        target.mux(cover.encode(av.VideoFrame(8, 8, "rgb24")))
    assert data
    (clip,) = read(covered)
    assert clip.frames is None
    assert stages(clip) == ["video"]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (5.0, None, "nothing after 5.0 s: the file ends at 4.0 s"),
        (5.0, 9.0, "the file ends at 4.0 s"),
        (2.0, 2.0, "nothing after 2.0 s"),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".flv"])
def test_a_part_that_is_empty(
    tmp_path: Path, suffix: str, start: float, end: float | None, message: str
) -> None:
    path = write_media(tmp_path / f"a{suffix}", Video(codec="libx264"))
    failure = only_failure(path, start=start, end=end)
    assert failure.stage == "open"
    if suffix == ".mp4" or start == end:
        assert message.split(":")[0] in failure.error


def test_a_part_that_goes_beyond_the_end(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", Video(codec="mpeg4"))
    (clip,) = read(path, start=1.0, end=60.0, sample_rate_hz=None)
    assert (clip.start_seconds, clip.end_seconds) == (1.0, 4.0)
    assert [f.error for f in clip.failures] == ["the file ends at 4.0 s, expected 60.0 s"]


def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    sound = Sound(codec="pcm_s16le", seconds=8.0)
    path = write_media(
        tmp_path / "a.mov", Video(codec="mpeg4", seconds=8.0), sound, movflags="faststart"
    )
    whole = read(path, window_seconds=1.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 20])
    clips = read(path, window_seconds=1.0)
    assert [clip.id for clip in clips[:3]] == ["x@0-1", "x@1-2", "x@2-3"]
    for clip, other in zip(clips[:3], whole):
        assert clip.failures == ()
        np.testing.assert_array_equal(clip.frames, other.frames)
        np.testing.assert_array_equal(clip.waveform, other.waveform)
    errors = [f.error for clip in clips[3:] for f in getattr(clip, "failures", (clip,))]
    assert sum("expected 8.0 s" in error for error in errors) == 1
    assert len(clips) <= 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["video", "audio"])
def test_damage_is_told_where_it_is(tmp_path: Path, kind: str) -> None:
    video = Video(codec="mpeg4", seconds=6.0, options={"g": "25"}, is_textured=True)
    path = write_media(tmp_path / "a.mp4", video, Sound(seconds=6.0))
    whole = read(path, window_seconds=1.0, fps=5.0)
    spoil(path, kind, 3.4)
    clips = read(path, window_seconds=1.0, fps=5.0)
    assert [clip.id for clip in clips] == [clip.id for clip in whole]
    told = [stages(clip) for clip in clips]
    assert told == [[], [], [], [kind], [], []]
    for clip, other in zip(clips, whole):
        if not clip.failures:
            np.testing.assert_array_equal(clip.frames, other.frames)
            np.testing.assert_allclose(clip.waveform, other.waveform, atol=1e-4)


def test_damage_before_the_next_wanted_group_is_no_matter(tmp_path: Path) -> None:
    video = Video(codec="mpeg4", options={"g": "10"}, is_textured=True)
    path = write_media(tmp_path / "a.mp4", video)
    whole = read(path, sample_rate_hz=None, fps=0.5)
    spoil(path, "video", 1.7)  # frames are wanted at 1 and 3 s
    (clip,) = read(path, sample_rate_hz=None, fps=0.5)
    assert clip.failures == ()
    np.testing.assert_array_equal(clip.frames, whole[0].frames)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.ts", "b.mpg", "c.ogg"])
def test_joined_recordings(tmp_path: Path, name: str) -> None:
    video, sound = Video(codec="mpeg2video", seconds=8.0), Sound(codec="mp2", seconds=8.0)
    if name == "c.ogg":
        video, sound = None, Sound(codec="flac", seconds=8.0)
    path = write_media(tmp_path / name, video, sound)
    wanted: dict[str, Any] = {"window_seconds": 4.0, "picture": SMALL if video else None}
    whole = read(path, **wanted)
    path.write_bytes(path.read_bytes() * 2)
    clips = read(path, **wanted)
    assert len(clips) in (4, 5)
    for clip, other in zip(clips, [*whole[:2], *whole[:2]]):
        assert [f.error for f in clip.failures] in ([], ["a packet is cut or damaged"])
        assert np.abs(clip.waveform).mean() == pytest.approx(np.abs(other.waveform).mean(), 0.03)
        for k, picture in enumerate(clip.frames if video else []):
            number = int(25 * (other.start_seconds + (k + 0.5) / 2))
            greys = [grey_of(number + d) for d in range(-2, 3)]  # sound and pictures end apart
            assert min(abs(picture.mean() - grey) for grey in greys) < 3


@pytest.mark.slow
def test_the_last_picture_stays(tmp_path: Path) -> None:
    sound = Sound(codec="pcm_s16le", rate_hz=8000, layout="mono", seconds=30.0)
    path = write_media(tmp_path / "a.mkv", Video(codec="mpeg4", seconds=4.0), sound)
    (whole,) = read(path)
    clips = read(path, window_seconds=6.0)
    np.testing.assert_array_equal(np.concatenate([clip.frames for clip in clips]), whole.frames)
    assert [stages(clip) for clip in clips] == [["video"]] * 5
    repeat = [clip.failures[0].error for clip in (*clips, whole)]
    assert [error.split(" of ")[0] for error in repeat] == ["2", "12", "12", "12", "12", "50"]


@pytest.mark.slow
def test_a_video_of_one_picture_is_a_still(tmp_path: Path) -> None:
    sound = Sound(codec="pcm_s16le", rate_hz=8000, layout="mono", seconds=30.0)
    path = write_media(tmp_path / "a.mkv", Video(seconds=0.04), sound)
    for clip in (*read(path), *read(path, window_seconds=6.0), *read(path, start=20.0)):
        assert clip.failures == ()
        np.testing.assert_allclose(clip.frames.mean((1, 2, 3)), 20, atol=2)


def test_sound_that_stops_is_told(tmp_path: Path) -> None:
    sound = Sound(codec="pcm_s16le", seconds=4.0)
    path = write_media(tmp_path / "a.mkv", Video(codec="mpeg4", seconds=30.0, fps=5), sound)
    clips = read(path, window_seconds=6.0)
    assert [stages(clip) for clip in clips] == [["audio"]] * 5
    assert clips[0].failures[0].error == "sound ends at 4.0 s, the clip at 6.0 s"
    assert all(clip.waveform is None for clip in clips[1:])
    assert all(clip.frames is not None for clip in clips)


def test_a_gap_in_the_sound_is_silent(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", sound=Sound(codec="flac", seconds=8.0))
    whole = read(path, picture=None)[0].waveform
    target = tmp_path / "b.mkv"
    packet: Any
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size and not 2000 <= packet.pts < 5500:
                packet.stream = stream
                container.mux(packet)
    (clip,) = read(target, picture=None)
    assert clip.failures[0].error == "sound is missing here"
    assert not clip.waveform[8000 * 2 + 1200 : 8000 * 5 + 3000].any()
    shift = [
        np.abs(clip.waveform[46_000:62_000] - whole[46_000 + s : 62_000 + s]).max()
        for s in (-4, -3, -2, -1, 0, 1, 2, 3, 4)
    ]
    assert min(shift) < 0.15  # Matroska's times are good to half a millisecond
    np.testing.assert_array_equal(clip.waveform[:14_000], whole[:14_000])


def patched(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def test_an_absurd_size_takes_no_memory(tmp_path: Path) -> None:
    video = Video(codec="rawvideo", size=(30, 40), pix_fmt="rgb24", seconds=1.0)
    path = write_media(tmp_path / "a.mov", video)
    resolution = b"\x00\x48\x00\x00"  # follows width and height
    patched(path, b"\x00\x28\x00\x1e" + resolution, b"\xea\x60\xea\x60" + resolution)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert only_failure(path, sample_rate_hz=None).stage == "video"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("window", [None, 1.0])
def test_an_absurd_duration_makes_no_windows(tmp_path: Path, window: float | None) -> None:
    path = write_media(tmp_path / "a.mkv", Video(codec="mpeg4", seconds=2.0))
    whole = read(path, window_seconds=window, sample_rate_hz=None)
    duration = b"\x44\x89\x88"  # and a double, in milliseconds
    patched(path, duration + struct.pack(">d", 2000.0), duration + struct.pack(">d", 1e12))
    clips = read(path, window_seconds=window, sample_rate_hz=None)
    for clip, other in zip(clips, whole):
        np.testing.assert_array_equal(clip.frames, other.frames)
    errors = [f.error for clip in clips for f in getattr(clip, "failures", (clip,))]
    assert errors == ["the file ends at 2.0 s, expected 1000000000.0 s"]


def test_a_clip_beyond_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raymc.features.decoding import clip_reader

    monkeypatch.setattr(clip_reader, "CLIP_BYTES", 8 * 8 * 3 * 3)
    path = write_media(tmp_path / "a.mp4", Video(codec="mpeg4"))
    assert only_failure(path, sample_rate_hz=None).error == reading.TOO_LONG
    assert len(read(path, sample_rate_hz=None, window_seconds=1.0)) == 4


@pytest.mark.parametrize(
    ("seconds", "shown", "is_told"),
    [
        ([0, 1, 2, 3], {0: 0, 1: 1, 2: 2, 3: 3}, False),
        ([0, 1, 500, 2, 3], {1: 1, 2: 3, 3: 4}, True),  # one is wrong
        ([0, 1, 50, 51, 52], {1: 1, 40: 1, 50: 2, 52: 4}, False),  # a gap
        ([0, 60, 120, 180], {0: 0, 59: 0, 60: 1, 150: 2, 180: 3}, False),  # rare
        ([0, 1, 2, 3, 500], {3: 3, 190: 3}, True),  # nothing confirms the last
        ([0, 1, 2, 3, 150], {3: 3, 149: 3, 150: 4}, False),  # but this isn't beyond the end
        ([40, 41, 42], {40: 0, 42: 2}, False),  # starts late
        ([900, 0, 1], {0: 1, 1: 2}, True),
        ([0, 1, 2, 0, 3], {1: 1, 2: 2, 3: 4}, True),  # goes back
    ],
)
def test_times_that_cannot_be_right(
    seconds: list[int], shown: dict[int, int], is_told: bool
) -> None:
    clock = Clock(tick_seconds=0.001, origin_seconds=0.0)
    display = Display(clock, [PictureMaker(SMALL)], step=1000, from_tick=0, start_tick=0)
    moments = [second + 0.5 for second in shown]
    display.want(moments)
    for number, second in enumerate(seconds):
        grey = np.full((8, 8, 3), 10 * number, np.uint8)
        display.add(av.VideoFrame.from_ndarray(grey, format="rgb24"), second * 1000)
    display.finish(200_000)
    pictures, trouble = display.take(moments, 0.0)
    assert pictures is not None
    assert [round(picture.mean() / 10) for picture in pictures[0]] == list(shown.values())
    assert bool(trouble) == is_told


def test_times_that_were_guessed_too_late() -> None:
    """A program stream times few pictures, and FFmpeg gives some of these times twice."""
    clock = Clock(tick_seconds=0.001, origin_seconds=0.0)
    display = Display(clock, [PictureMaker(SMALL)], step=40, from_tick=0, start_tick=0)
    moments = [0.02, 0.05, 0.25, 0.29, 0.33]
    display.want(moments)
    for number, tick in enumerate([0, None, None, 200, None, 200, None, None, None]):
        grey = np.full((8, 8, 3), 10 * number, np.uint8)
        display.add(av.VideoFrame.from_ndarray(grey, format="rgb24"), tick)
    display.finish(400)
    pictures, trouble = display.take(moments, 0.0)
    assert pictures is not None
    assert [round(picture.mean() / 10) for picture in pictures[0]] == [0, 1, 6, 7, 8]
    assert trouble == ""


def test_times_that_step_back_are_not_another_recording() -> None:
    timeline = Timeline({0: Clock(tick_seconds=1 / 90_000, origin_seconds=0.0)})
    for tick in (72_208, 75_808, 79_408, 68_608, 72_208, 75_808, 79_408, 83_008):
        packet = Mock(spec=av.Packet, stream_index=0, pts=tick, dts=tick, duration=3600)
        assert timeline.place(packet) == ""
        assert packet.dts == tick


@pytest.mark.parametrize(
    ("packets", "placed"),
    [
        ("v0 a0 v1 a1 v2", "v0 a0 v1 a1 v2"),
        ("v5 a5 v6 a6 v5 a5 v6 a6", "v5 a5 v6 a6 v7 a7 v8 a8"),  # begins anew
        ("v5 a5 v6 v5 a6 a5 v6 a6", "v5 a5 v6 v7 a6 a7 v8 a8"),  # one comes late
        ("v5 a5 v900 a900 v901 a901", "v5 a5 v6 a6 v7 a7"),  # the next is far away
        ("v0 a0 a5 a10 a15 a20 v20", "v0 a0 a5 a10 a15 a20 v20"),  # rare pictures
        ("v0 a0 v500 v1 a1 v2", "v0 a0 v1 v1 a1 v2"),  # one is wrong
        ("v0 v1 v2 v9 v3 v4", "v0 v1 v2 v9 v3 v4"),
        ("v5 v6 v5 v6 v5 v6", "v5 v6 v7 v8 v9 v10"),
    ],
)
def test_recordings_follow_each_other(packets: str, placed: str) -> None:
    clock = Clock(tick_seconds=0.5, origin_seconds=0.0)
    timeline = Timeline({0: clock, 1: clock})
    found = []
    for name in packets.split():
        time = 2 * int(name[1:])
        about = {"stream_index": "va".index(name[0]), "pts": time, "dts": time, "duration": 2}
        packet = Mock(spec=av.Packet, **about)
        timeline.place(packet)
        found.append(f"{name[0]}{packet.pts // 2}")
    assert " ".join(found) == placed


FAR_SECONDS = 134_000
PICTURE, SOUND = 9, 8  # types of FLV's tags


def write_jump(path: Path, kind: int, numbers: range, seconds: int = FAR_SECONDS) -> Path:
    """Write 3 s of FLV in which some tags of a stream are timed so much later."""
    video = Video(codec="flv", seconds=3.0, is_numbered=True, options={"g": "12"})
    data = bytearray(write_media(path, video, Sound(seconds=3.0)).read_bytes())
    at, number = 13, 0  # after the header
    while at < len(data):
        if data[at] == kind:
            if number in numbers:
                time = int.from_bytes([data[at + 7], *data[at + 4 : at + 7]]) + 1000 * seconds
                data[at + 7], *data[at + 4 : at + 7] = time.to_bytes(4)
            number += 1
        at += 15 + int.from_bytes(data[at + 1 : at + 4])
    path.write_bytes(data)
    return path


def told_in(clips: list[Any]) -> list[str]:
    failures = [f for clip in clips for f in getattr(clip, "failures", (clip,))]
    return [f"{failure.stage}: {failure.error}" for failure in failures]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "numbers", "told"),
    [
        (PICTURE, range(20, 21), "a picture's time is wrong"),
        (PICTURE, range(20, 23), "a picture's time is wrong"),
        (PICTURE, range(1), "a picture's time is wrong"),
        (PICTURE, range(74, 75), "times jump from 3.0 s to 134003.0 s"),
        (SOUND, range(30, 31), "a packet's time is wrong"),
        (SOUND, range(30, 32), "a packet's time is wrong"),
        (SOUND, range(129, 130), "a packet's time is wrong"),
    ],
)
@pytest.mark.parametrize("window", [None, 0.5])
def test_some_times_far_too_late(
    tmp_path: Path, kind: int, numbers: range, told: str, window: float | None
) -> None:
    whole = read(write_jump(tmp_path / "a.flv", kind, range(0)), window_seconds=window, fps=4.0)
    clips = read(write_jump(tmp_path / "b.flv", kind, numbers), window_seconds=window, fps=4.0)
    assert len(whole) <= len(clips) <= len(whole) + 3
    assert told in " ".join(told_in(clips))
    stage = "video" if kind == PICTURE else "audio"
    for clip, other in zip(clips, whole):
        assert (clip.id, clip.end_seconds) == (other.id, pytest.approx(other.end_seconds, abs=0.1))
        assert len(clip.frames) == len(other.frames)
        if stage not in stages(clip):
            at = slice(None, min(len(clip.waveform), len(other.waveform)))
            np.testing.assert_array_equal(clip.frames, other.frames)
            np.testing.assert_allclose(clip.waveform[at], other.waveform[at], atol=0.2)


def with_later(path: Path, target: Path, seconds: dict[str, int]) -> Path:
    """A copy in which the times of the streams named, from 1.6 s on, are so much later."""
    packet: Any
    packets = []
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        streams: Any = {s.index: container.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.size and packet.dts is not None:
                is_late = packet.dts * packet.time_base >= 1.6
                later = seconds.get(packet.stream.type, 0) if is_late else 0
                packet.pts += round(later / packet.time_base)
                packet.dts += round(later / packet.time_base)
                packets.append((packet.dts * packet.time_base, packet.stream.index, packet))
        for _, index, packet in sorted(packets, key=lambda item: item[:2]):
            packet.stream = streams[index]
            container.mux(packet)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".nut", ".flv"])
@pytest.mark.parametrize("kinds", [("video",), ("audio",), ("video", "audio")])
def test_all_times_far_too_late_from_one_on(
    tmp_path: Path, suffix: str, kinds: tuple[str, ...]
) -> None:
    video = Video(codec="flv" if suffix == ".flv" else "mpeg4", seconds=3.0)
    path = write_media(tmp_path / f"a{suffix}", video, Sound(seconds=3.0))
    jump = dict.fromkeys(kinds, FAR_SECONDS)
    path, whole = with_later(path, tmp_path / f"b{suffix}", jump), read(path, window_seconds=0.5)
    clips = read(path, window_seconds=0.5)
    assert len(clips) < 15
    assert sum("times jump from" in error for error in told_in(clips)) <= 1
    for clip, other in zip(clips[:3], whole):
        np.testing.assert_array_equal(clip.frames, other.frames)
    far: list[Any] = [
        clip for clip in clips if isinstance(clip, Clip) and clip.start_seconds > 3600
    ]
    if suffix != ".mp4" or "audio" not in kinds:  # MP4 as it is written here has no gap of sound
        assert any("times jump from" in error for error in told_in(clips))
        assert [clip.start_seconds for clip in far] == [FAR_SECONDS + 1.5 + k / 2 for k in range(3)]
        assert len({clip.id for clip in clips}) == len(clips)
        if "video" in kinds:
            for clip, other in zip(far, whole[3:]):
                np.testing.assert_array_equal(clip.frames[-1], other.frames[-1])
    (first, *rest) = read(path)
    assert first.end_seconds < 5
    assert not [clip for clip in rest if isinstance(clip, Clip)]


@pytest.mark.slow
def test_pictures_may_be_rare(tmp_path: Path) -> None:
    """For less than an hour, or for longer while there is sound, which may not be asked for."""
    times = [0.0, 3000.0, 3001.0]
    rare = write_media(tmp_path / "a.mkv", Video(codec="mjpeg", pix_fmt="yuvj420p", times=times))
    clips = read(rare, window_seconds=100.0, fps=0.1, sample_rate_hz=None)
    assert len(clips) == 30
    assert told_in(clips) == []
    sound = Sound(codec="pcm_s16le", rate_hz=1000, layout="mono", seconds=4000.0)
    video = Video(codec="mjpeg", pix_fmt="yuvj420p", times=[0.0, 3800.0, 3900.0])
    path = write_media(tmp_path / "b.mkv", video, sound)
    for rate_hz in (1000, None):
        clips = read(path, window_seconds=100.0, fps=0.1, sample_rate_hz=rate_hz)
        assert [clip.start_seconds for clip in clips[:39]] == [100.0 * k for k in range(39)]
        assert not [error for error in told_in(clips) if "jump" in error]
        for clip, number in zip(clips[37:39], (0, 1)):
            assert clip.frames.mean() == pytest.approx(grey_of(number), abs=2)


@pytest.mark.slow
def test_a_long_gap_is_left_out(tmp_path: Path) -> None:
    times = [k / 5 + 90_000 * (k >= 10) for k in range(2500)]
    video = Video(codec="ffv1", size=(16, 16), times=times)
    path = write_media(tmp_path / "a.mkv", video, Sound(codec="flac", seconds=1.7))
    clips = read(path, window_seconds=7.0, stride_seconds=3.0, fps=1.0)
    assert told_in(clips)[0] == "open: times jump from 1.8 s to 90002.0 s, with nothing in between"
    assert [clip.start_seconds for clip in clips[:3]] == [0, 89_997, 90_000]
    assert clips[0].end_seconds == pytest.approx(2.0, abs=0.3)
    wanted = [9, 9, 9, 9, 9, 12, 17]
    np.testing.assert_allclose(
        clips[1].frames.mean((1, 2, 3)), [grey_of(number) for number in wanted], atol=2
    )
    (clip,) = read(path, start=90_010.0, end=90_020.0, fps=1.0, sample_rate_hz=None)
    assert clip.failures == ()


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return write_fuzzed(tmp_path_factory.mktemp("fuzzed"))


def check(clip: Clip | Failure) -> None:
    """What holds for every file, whatever is in it."""
    failures = (clip,) if isinstance(clip, Failure) else clip.failures
    assert all(failure.error and "\n" not in failure.error for failure in failures)
    if isinstance(clip, Failure):
        return
    length = clip.end_seconds - clip.start_seconds
    assert length > 0
    assert (clip.frames is None) <= ("video" in stages(clip))
    assert (clip.waveform is None) <= ("audio" in stages(clip))
    if clip.waveform is not None:
        assert len(clip.waveform) == round(length * 8000)
        assert np.abs(clip.waveform).max(initial=0) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZED)
@pytest.mark.parametrize("window", [None, 0.8])
def test_damage_of_any_kind(
    tmp_path: Path, fuzzed: dict[str, bytes], name: str, window: float | None
) -> None:
    rng = random.Random(f"{name}{window}")
    for _ in range(3):
        for damage in DAMAGES:
            data = bytearray(fuzzed[name])
            damage(data, rng)
            (tmp_path / name).write_bytes(data)
            clips = read(tmp_path / name, window_seconds=window)
            assert clips
            for clip in clips:
                check(clip)


@pytest.mark.parametrize("name", [name for name in FUZZED if name[-3:] != "wav"])
def test_heads_of_other_files(tmp_path: Path, fuzzed: dict[str, bytes], name: str) -> None:
    for other, head in fuzzed.items():
        for size in (100, 4000):
            path = tmp_path / f"{other}{size}{name}"
            path.write_bytes(head[:size] + fuzzed[name][size:])
            for clip in read(path):
                check(clip)


@pytest.mark.parametrize("name", ["a.mkv", "b.mp4"])
def test_a_cut_at_every_kilobyte(tmp_path: Path, fuzzed: dict[str, bytes], name: str) -> None:
    path, data = tmp_path / name, fuzzed[name]
    path.write_bytes(data)
    (whole,) = read(path)
    for size in range(0, len(data), 1024):
        path.write_bytes(data[:size])
        (clip,) = read(path)
        check(clip)
        if (
            not isinstance(clip, Failure) and not clip.failures
        ):  # only what ends the file is missing
            assert size > len(data) * 0.9
            np.testing.assert_array_equal(clip.frames, whole.frames)
            np.testing.assert_allclose(clip.waveform, whole.waveform, atol=1e-3)


@pytest.mark.slow
def test_checked_damage_never_goes_unnoticed(tmp_path: Path) -> None:
    """FFV1 and FLAC have checksums: a clip equals the undamaged one, or a failure is told."""
    path = write_media(tmp_path / "a.nut", *CHECKED)  # Matroska's times are too coarse for sound
    undamaged = path.read_bytes()
    whole = {clip.id: clip for clip in read(path, window_seconds=0.5)}
    rng = random.Random(0)
    told = 0
    for _ in range(25):
        data = bytearray(undamaged)
        flip(data, rng)
        path.write_bytes(data)
        for clip in read(path, window_seconds=0.5):
            if isinstance(clip, Failure) or clip.failures:
                told += 1
                continue
            np.testing.assert_array_equal(clip.frames, whole[clip.id].frames)
            np.testing.assert_array_equal(clip.waveform, whole[clip.id].waveform)
    assert told > 10
