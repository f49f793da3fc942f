"""Clips against an independent decode of all frames, and against sound that is known."""

import math
import re
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import fsspec
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from media_files import Sound, Video, grey_of, number_in, textured, write_media

import raymc.features
from raymc.errors import ConfigError, ResourceError
from raymc.features.clips import Clip, ClipRequest, Picture
from raymc.features.decoding.media_file import MediaFile
from raymc.features.decoding.shown import Display
from raymc.features.media import read_clips
from raymc.features.sources import Source

EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
SMALL = Picture(height=12, width=16)
VP9 = Video(codec="libvpx-vp9", options={"g": "30", "deadline": "realtime", "cpu-used": "8"})
SHORT_GROUPS = {"g": "12", "bf": "2"}
OPEN_GROUPS = {"x264-params": "keyint=30:open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}
FILES: dict[str, tuple[str, Video, Sound | None]] = {
    "h264 in mp4": ("a.mp4", Video(options={"g": "30"}), Sound()),
    "open groups": ("b.mkv", Video(options=OPEN_GROUPS), None),
    "open groups in ts": ("c.ts", Video(options=OPEN_GROUPS), Sound()),
    "slow refresh": ("d.mp4", Video(options={"x264-params": "intra-refresh=1:keyint=30"}), None),
    "one long group": ("e.mp4", Video(options={"x264-params": "keyint=999:scenecut=0"}), None),
    "mpeg-1": ("n.mpg", Video(codec="mpeg1video", options={"g": "12"}), Sound(codec="mp2")),
    "mpeg-2": ("f.ts", Video(codec="mpeg2video", options=SHORT_GROUPS), Sound(codec="mp2")),
    "mpeg-4 in avi": ("g.avi", Video(codec="mpeg4", options=SHORT_GROUPS), None),
    "h264 in avi": ("h.avi", Video(options={"g": "30"}), None),
    "no duration": ("i.flv", Video(codec="flv", options={"g": "20"}), None),
    "no times": ("j.h264", Video(options={"g": "30"}), None),
    "uneven": ("k.mkv", Video(times=[i**1.4 / 100 for i in range(90)], options={"g": "9"}), None),
    "pcm in mov": ("m.mov", Video(codec="mpeg4"), Sound(codec="pcm_s16le")),
    "vp9 in webm": ("o.webm", VP9, None),
    "only key frames": ("l.mkv", Video(codec="ffv1", options={"g": "1"}), Sound(codec="flac")),
}
SECONDS = 12.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def file_of(folder: Path) -> Callable[[str], str]:
    @cache
    def written(name: str) -> str:
        file, video, sound = FILES[name]
        longer = {**vars(video), "seconds": SECONDS, "is_textured": True}
        sound = None if sound is None else Sound(codec=sound.codec, seconds=SECONDS)
        return str(write_media(folder / file, Video(**longer), sound))

    return written


def read(
    path: str | Path, *, start: float = 0.0, end: float | None = None, **wanted: Any
) -> list[Any]:
    defaults: dict[str, Any] = {"picture": SMALL, "sample_rate_hz": None}
    source = Source(path=str(path), id="x", start_seconds=start, end_seconds=end)
    return list(read_clips(source, ClipRequest(**{**defaults, **wanted})))


def one(path: str | Path, **wanted: Any) -> Any:
    (clip,) = read(path, **wanted)
    assert isinstance(clip, Clip)
    return clip


@cache
def all_frames(path: str) -> tuple[list[float], list[np.ndarray]]:
    """Every frame of a file, decoded by plain av, and when it is displayed."""
    times, pictures = [], []
    frame: Any
    with av.open(path) as container:
        stream: Any = container.streams.video[0]
        origin = Fraction(container.start_time or 0, av.time_base)
        has_times = container.format.name not in ("avi", "h264")
        for number, frame in enumerate(container.decode(stream)):
            time = frame.pts * stream.time_base if has_times else number / stream.average_rate
            times.append(float(time - (origin if has_times else 0)))
            pictures.append(scaled(frame, SMALL.height, SMALL.width))
    return times, pictures


def scaled(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    how = Interpolation.BILINEAR | EXACT
    return frame.reformat(width, height, "rgb24", interpolation=how, threads=1).to_ndarray()


def displayed(path: str, clip: Clip, fps: float) -> np.ndarray:
    """The frames of a clip by its definition, one by one."""
    times, pictures = all_frames(path)
    length = clip.end_seconds - clip.start_seconds
    count = math.ceil(length * fps - 0.5 - 1e-6)
    moments = [clip.start_seconds + (t + 0.5) / fps for t in range(count)] or [
        clip.end_seconds - 1e-4
    ]
    shown = [
        max((i for i, time in enumerate(times) if time <= m + 1e-5), default=0) for m in moments
    ]
    return np.stack([pictures[i] for i in shown])


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("fps", "start", "window", "stride"),
    [
        (0.4, 1.3, None, None),
        (7.0, 0.0, 2.5, 1.1),
    ],
)
def test_frames_are_those_of_a_full_decode(
    file_of: Any, name: str, fps: float, start: float, window: float | None, stride: float | None
) -> None:
    path = file_of(name)
    clips = read(path, start=start, fps=fps, window_seconds=window, stride_seconds=stride)
    assert clips
    for clip in clips:
        assert isinstance(clip, Clip)
        assert clip.failures == ()
        np.testing.assert_array_equal(clip.frames, displayed(path, clip, fps))


def test_a_frame_is_the_one_at_the_middle_of_its_time(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", Video(seconds=4.4, options={"g": "30"}))
    clip = one(path)
    assert (clip.start_seconds, clip.end_seconds) == (0.0, 4.4)
    assert clip.frames is not None
    wanted = [grey_of(math.floor((t + 0.5) * 25)) for t in range(4)]
    np.testing.assert_allclose(clip.frames.mean((1, 2, 3)), wanted, atol=2)


@pytest.mark.parametrize("name", ["h264 in mp4", "no duration", "only key frames"])
def test_windows_are_slices_of_the_whole(file_of: Any, name: str) -> None:
    path = file_of(name)
    whole = one(path, fps=4.0, sample_rate_hz=16_000 if FILES[name][2] else None)
    wanted = {"fps": 4.0, "sample_rate_hz": 16_000 if FILES[name][2] else None}
    for clip in read(path, window_seconds=2.5, stride_seconds=1.0, **wanted):
        assert clip.id == f"x@{clip.start_seconds:g}-{clip.end_seconds:g}"
        first = round(4 * clip.start_seconds)
        np.testing.assert_array_equal(clip.frames, whole.frames[first : first + len(clip.frames)])
        if clip.waveform is not None:
            first = round(16_000 * clip.start_seconds)
            part = whole.waveform[first : first + len(clip.waveform)]
            np.testing.assert_array_equal(clip.waveform, part)


@pytest.mark.parametrize(
    ("seconds", "window", "stride", "windows"),
    [
        (4.0, 4.0, None, ["x"]),
        (4.0, 5.0, None, ["x"]),
        (4.0, 1.5, None, ["x@0-1.5", "x@1.5-3", "x@3-4"]),
        (4.0, 1.9, None, ["x@0-1.9", "x@1.9-3.8"]),  # 0.2 s are left
        (4.0, 2.0, 1.0, ["x@0-2", "x@1-3", "x@2-4"]),
        (4.0, 1.0, 2.5, ["x@0-1", "x@2.5-3.5"]),
        (0.2, 5.0, None, ["x"]),
    ],
)
@pytest.mark.parametrize("suffix", [".mkv", ".flv"])
def test_where_windows_lie(
    tmp_path: Path, suffix: str, seconds: float, window: float, stride: float, windows: list[str]
) -> None:
    path = write_media(
        tmp_path / f"a{suffix}",
        Video(codec="mpeg4" if suffix == ".mkv" else "flv", seconds=seconds),
    )
    clips = read(path, window_seconds=window, stride_seconds=stride, fps=2.0)
    assert [clip.id for clip in clips] == windows
    end = float(windows[-1].rpartition("-")[2]) if "@" in windows[-1] else seconds
    assert clips[-1].end_seconds == pytest.approx(end)


def test_a_part_of_a_file(file_of: Any) -> None:
    path = file_of("h264 in mp4")
    clip = one(path, start=2.5, end=6.0, fps=2.0, sample_rate_hz=8000)
    whole = one(path, fps=2.0, sample_rate_hz=8000)
    assert (clip.id, clip.start_seconds, clip.end_seconds) == ("x", 2.5, 6.0)
    np.testing.assert_array_equal(clip.frames, whole.frames[5:12])
    np.testing.assert_allclose(clip.waveform, whole.waveform[20_000:48_000], atol=1e-3)


@pytest.mark.slow
def test_slides_stay_until_the_next(tmp_path: Path) -> None:
    times = [0.0, 60.0, 120.0, 180.0, 400.0, 402.0]
    video = Video(codec="mpeg4", times=times)  # one key frame: the others refer to what was shown
    sound = Sound(codec="pcm_s16le", rate_hz=1000, layout="mono", seconds=410.0)
    path = write_media(tmp_path / "a.mkv", video, sound)
    clips = read(path, window_seconds=30.0, fps=0.1, sample_rate_hz=1000)
    for clip in clips[:-1]:
        moments = [clip.start_seconds + 10 * t + 5 for t in range(len(clip.frames))]
        wanted = [grey_of(max(i for i, time in enumerate(times) if time <= m)) for m in moments]
        np.testing.assert_allclose(clip.frames.mean((1, 2, 3)), wanted, atol=3)
    told = [clip.start_seconds for clip in clips if clip.failures]
    assert told == [390]  # where the last is over


@pytest.mark.parametrize("name", ["h264 in mp4", "vp9 in webm"])
def test_far_windows_are_sought(file_of: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_of(name)
    seeks: list[tuple[float, Any]] = []
    packets_from = MediaFile.packets_from

    def noted(self: MediaFile, *wanted: Any) -> Any:
        seeks.append((wanted[1], packets := packets_from(self, *wanted)))
        return packets

    monkeypatch.setattr(MediaFile, "packets_from", noted)
    clips = read(path, window_seconds=0.5, stride_seconds=10.6, fps=10.0)
    assert [clip.start_seconds for clip in clips] == [0.0, 10.6]
    assert [second for second, packets in seeks if packets is not None] == [9.0]
    for clip in clips:
        np.testing.assert_array_equal(clip.frames, displayed(path, clip, 10.0))


def test_no_more_is_decoded_than_needed(file_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    add = Display.add
    monkeypatch.setattr(Display, "add", lambda self, f, t: (decoded.append(t), add(self, f, t))[1])
    one(file_of("h264 in mp4"), fps=0.25)
    assert 3 <= len(decoded) < 80  # of 300: parts of three groups of 30


def test_reading_goes_no_further_than_the_window(
    file_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = []
    packets = MediaFile.packets

    def counted(self: MediaFile, *wanted: Any) -> Iterator[Any]:
        packet: Any
        for packet in packets(self, *wanted):
            handed.append(packet.dts * float(packet.time_base))
            yield packet

    monkeypatch.setattr(MediaFile, "packets", counted)
    request = ClipRequest(picture=SMALL, sample_rate_hz=8000, window_seconds=2.0)
    next(read_clips(Source(path=file_of("mpeg-1"), id="x"), request))
    assert max(handed) - min(handed) < 4.0  # of 12: the window, a second of sound, a group


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_pictures_are_turned_upright(tmp_path: Path, rotation: int, is_mirrored: bool) -> None:
    turn = {"rotation": rotation, "is_mirrored": is_mirrored}
    plain = Video(codec="mpeg4", seconds=0.4, is_textured=True, options={"qmax": "2"})
    path = write_media(tmp_path / "a.mp4", Video(**{**vars(plain), **turn}))
    height, width = (64, 48) if rotation % 180 else (48, 64)
    clip = one(path, picture=Picture(height=height, width=width), fps=10.0)
    assert clip.frames is not None
    for number, frame in zip((1, 3, 6, 8), clip.frames):
        upright = np.rot90(textured(number, 48, 64), rotation // 90)
        upright = upright[:, ::-1] if is_mirrored else upright
        others = (upright[::-1], upright[:, ::-1], upright[::-1, ::-1])
        assert difference(frame, upright) < 25
        assert min(difference(frame, other) for other in others) > 40


def difference(frame: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(frame.astype(int) - other).mean())


@pytest.mark.parametrize(
    ("size", "picture", "scaled_to"),
    [
        ((48, 64), Picture(height=20, width=20, short_side=24), (24, 32)),
        ((64, 48), Picture(height=20, width=20, short_side=24), (32, 24)),
        ((48, 64), Picture(height=24, width=10, short_side=24), (24, 32)),
        ((16, 512), Picture(height=8, width=8, short_side=8), (8, 128)),  # 16 times, no more
    ],
)
def test_pictures_are_cut_out_of_the_middle(
    tmp_path: Path, size: tuple[int, int], picture: Picture, scaled_to: tuple[int, int]
) -> None:
    path = write_media(
        tmp_path / "a.mkv", Video(codec="ffv1", size=size, is_textured=True, seconds=1)
    )
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    whole = scaled(frames[12], *scaled_to)
    top, left = (scaled_to[0] - picture.height) // 2, (scaled_to[1] - picture.width) // 2
    wanted = whole[top : top + picture.height, left : left + picture.width]
    np.testing.assert_array_equal(one(path, picture=picture).frames[0], wanted)


@pytest.mark.parametrize(
    ("size", "place"),
    [
        ((48, 64), (slice(5, 35), slice(0, 40))),
        ((64, 48), (slice(0, 40), slice(5, 35))),
        ((16, 512), (slice(19, 20), slice(0, 40))),
    ],
)
def test_the_screen_is_shown_whole_beside_the_picture(
    tmp_path: Path, size: tuple[int, int], place: tuple[slice, slice]
) -> None:
    video = Video(codec="ffv1", size=size, is_textured=True, seconds=2)
    path = write_media(tmp_path / "a.mkv", video)
    screen = Picture(height=40, width=40, fits=True)
    clip = one(path, screen=screen)
    np.testing.assert_array_equal(clip.frames, one(path).frames)
    inside = one(path, picture=Picture(height=place[0].stop - place[0].start,
                                       width=place[1].stop - place[1].start))  # fmt: skip
    np.testing.assert_array_equal(clip.screen[:, place[0], place[1]], inside.frames)
    rest = clip.screen.copy()
    rest[:, place[0], place[1]] = 0
    assert not rest.any()
    alone = one(path, picture=None, screen=screen)
    assert alone.frames is None
    np.testing.assert_array_equal(alone.screen, clip.screen)


def test_wide_pixels_make_wide_pictures(tmp_path: Path) -> None:
    video = Video(codec="mpeg4", size=(48, 48), pixel_aspect=Fraction(2), is_textured=True)
    path = write_media(tmp_path / "a.mp4", video)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    wanted = scaled(frames[12], 24, 48)[:, 12:36]
    picture = Picture(height=24, width=24, short_side=24)
    np.testing.assert_array_equal(one(path, picture=picture).frames[0], wanted)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area"])
def test_interpolations(tmp_path: Path, interpolation: Any) -> None:
    path = write_media(tmp_path / "a.mkv", Video(codec="ffv1", is_textured=True, seconds=1))
    picture = Picture(height=12, width=16, interpolation=interpolation)
    with av.open(str(path)) as container:
        frame = list(container.decode(video=0))[12]
    how = Interpolation[interpolation.upper()] | EXACT
    wanted = frame.reformat(16, 12, "rgb24", interpolation=how, threads=1).to_ndarray()
    np.testing.assert_array_equal(one(path, picture=picture).frames[0], wanted)


def test_packed_pictures(tmp_path: Path) -> None:
    """DivX packed a picture and one that refers to it into a packet, and an empty one after it."""
    start = b"\0\0\1\xb6"  # of a picture in MPEG-4 part 2
    options = {"bf": "1", "g": "12", "qmax": "4", "sc_threshold": "1000000000", "b_strategy": "0"}
    video = Video(codec="mpeg4", is_numbered=True, seconds=2, size=(96, 128), options=options)
    path = write_media(tmp_path / "a.avi", video)
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.avi"), "w") as target:
        stream: Any = target.add_stream_from_template(source.streams.video[0])
        pictures = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        packets: list[bytes] = []
        for picture in pictures:
            if picture[picture.index(start) + 4] >> 6 == 2:  # refers to the one before
                packets[-1:] = [packets[-1] + picture, start + b"\x50\x4f\x7f"]
            else:
                packets.append(picture)
        assert len(packets) == len(pictures)
        packets[0] = packets[0].replace(start, b"\0\0\1\xb2DivX503b1393p" + start, 1)
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 25), number == 0
            target.mux(packet)
    for clip in read(tmp_path / "b.avi", fps=5.0, window_seconds=0.8):
        assert clip.failures == ()
        first = round(clip.start_seconds * 25)
        shown = [number_in(picture) for picture in clip.frames]
        assert shown == [first + 2 + 5 * k for k in range(len(shown))]


def without_timing(data: bytes, fps: int) -> bytes:
    """A stream of H.264 whose parameters don't say how fast it is, as many encoders write it."""
    units = data.split(b"\0\0\1")
    for k, unit in enumerate(units):
        if unit[:1] and unit[0] & 31 == 7:
            bits = "".join(f"{byte:08b}" for byte in unit.replace(b"\0\0\3", b"\0\0"))
            at = bits.index(f"1{1:032b}{2 * fps:032b}")  # and whether the rate is fixed
            bits = (bits[:at] + "0" + bits[at + 66 :]).rstrip("0")
            bits += "0" * (-len(bits) % 8)
            whole = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
            units[k] = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", whole) + b"\0"
    return b"\0\0\1".join(units)


def test_frames_without_times_follow_each_other(tmp_path: Path) -> None:
    """FFmpeg says of most of them there that they last a tick, which is a microsecond."""
    path = tmp_path / "bare.h264"
    video = Video(seconds=6.0, size=(96, 128), is_numbered=True, options={"g": "25", "bf": "2"})
    write_media(path, video)
    path.write_bytes(without_timing(path.read_bytes(), video.fps))
    clip = one(path, fps=2.0)
    assert (clip.end_seconds, clip.failures) == (6.0, ())
    assert [number_in(frame) for frame in clip.frames] == [int(12.5 * k + 6.25) for k in range(12)]


def test_the_tiniest_picture(tmp_path: Path) -> None:
    video = Video(codec="rawvideo", size=(1, 1), pix_fmt="rgb24", seconds=0.04)
    clip = one(write_media(tmp_path / "a.nut", video))
    np.testing.assert_array_equal(clip.frames, np.full((1, 12, 16, 3), grey_of(0)))


def frequency_of(waveform: np.ndarray, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 8 * len(waveform)))
    return float(spectrum.argmax() * rate_hz / (8 * len(waveform)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "sound"),
    [
        ("a.wav", Sound(codec="pcm_s16le")),
        ("a.wav", Sound(codec="pcm_u8", rate_hz=8000, layout="mono")),
        ("a.wav", Sound(codec="pcm_f32le", rate_hz=11_025)),
        ("a.wav", Sound(codec="pcm_s24le", rate_hz=44_099, layout="mono")),
        ("a.wav", Sound(codec="pcm_f64le", rate_hz=96_000)),
        ("a.mp3", Sound(codec="libmp3lame")),
        ("a.mp4", Sound(codec="aac", layout="mono")),
        ("a.mkv", Sound(codec="flac", rate_hz=48_000, layout="5.1")),
        ("a.webm", Sound(codec="libopus", rate_hz=48_000)),
        ("a.mp4", Sound(codec="aac", rate_hz=48_000, layout="7.1")),  # av crashes on eight planes
    ],
)
def test_sound_of_any_rate_and_layout(tmp_path: Path, file: str, sound: Sound) -> None:
    path = write_media(tmp_path / file, sound=sound)
    clip = one(path, picture=None, sample_rate_hz=16_000)
    assert clip.failures == ()
    assert clip.waveform is not None
    assert len(clip.waveform) == round(16_000 * clip.end_seconds)
    assert clip.end_seconds == pytest.approx(4.0, abs=0.06)
    middle = clip.waveform[16_000:48_000]
    assert frequency_of(middle, 16_000) == pytest.approx(440, abs=0.5)
    channels = av.AudioLayout(sound.layout).nb_channels
    loudest = 0.5 if channels == 1 else 0.75 / channels
    assert np.abs(middle).max() == pytest.approx(loudest, rel=0.05)


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100, 48_000])
def test_samples_stand_where_their_time_says(tmp_path: Path, rate_hz: int) -> None:
    path = write_media(tmp_path / "a.wav", sound=Sound(codec="pcm_s16le"))
    waveform = one(path, picture=None, sample_rate_hz=rate_hz).waveform
    times = np.arange(len(waveform)) / rate_hz
    inner = slice(rate_hz // 10, -rate_hz // 10)
    wanted = 0.375 * np.sin(2 * np.pi * 440 * times)
    np.testing.assert_allclose(waveform[inner], wanted[inner], atol=1e-3)


@pytest.mark.parametrize("name", ["pcm in mov", "mpeg-1"])
@pytest.mark.parametrize("start", [2.0, 3.3, 7.01])
def test_sound_is_the_same_wherever_one_begins(file_of: Any, name: str, start: float) -> None:
    whole = one(file_of(name), picture=None, sample_rate_hz=16_000).waveform
    part = one(file_of(name), start=start, picture=None, sample_rate_hz=16_000).waveform
    first = round(start * 16_000)
    atol = 1e-4 if name == "mpeg-1" else 0.0  # MP2's decoder dithers the last bit
    np.testing.assert_allclose(part, whole[first : first + len(part)], atol=atol)


def test_resampling_is_the_same_wherever_one_begins(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "a.wav", sound=Sound(codec="pcm_s16le", rate_hz=44_099, seconds=9)
    )
    whole = one(path, picture=None, sample_rate_hz=16_000).waveform
    for start in (2.0, 3.3, 7.01):
        part = one(path, start=start, picture=None, sample_rate_hz=16_000).waveform
        first = round(start * 16_000)
        np.testing.assert_array_equal(part, whole[first : first + len(part)])


def test_sound_that_starts_late_is_silent_before(tmp_path: Path) -> None:
    sound = Sound(codec="pcm_s16le", start=1.25, seconds=2.75)
    path = write_media(tmp_path / "a.mkv", Video(codec="mpeg4"), sound)
    clip = one(path, sample_rate_hz=8000)
    assert clip.failures == ()
    assert len(clip.waveform) == round(8000 * clip.end_seconds)
    assert not clip.waveform[: 10_000 - 16].any()
    wanted = 0.375 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 8000)
    np.testing.assert_allclose(clip.waveform[10_100:26_000], wanted[100:16_000], atol=0.2)
    assert np.abs(clip.waveform[10_100:26_000]).max() > 0.3


def test_the_clock_starts_with_the_file(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.ts", Video(seconds=3.0))  # its first time is 1.4 s
    clip = one(path, fps=2.0)
    assert (clip.start_seconds, clip.end_seconds) == (0.0, pytest.approx(3.0))
    wanted = [grey_of(math.floor((t + 0.5) / 2 * 25)) for t in range(6)]
    np.testing.assert_allclose(clip.frames.mean((1, 2, 3)), wanted, atol=2)


def test_loud_sound_is_clipped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 8000), 3, np.float32), "flt", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    clip = one(path, picture=None, sample_rate_hz=8000)
    assert clip.waveform.max() == 1


def test_addresses_are_read_like_files(file_of: Any) -> None:
    path = file_of("h264 in mp4")
    address = f"memory://{uuid4().hex}/a.mp4"
    file: Any
    with fsspec.open(address, "wb") as file:
        file.write(Path(path).read_bytes())
    wanted = {"fps": 2.0, "sample_rate_hz": 8000, "window_seconds": 5.0}
    for there, here in zip(read(address, **wanted), read(path, **wanted), strict=True):
        assert there.id == here.id
        np.testing.assert_array_equal(there.frames, here.frames)
        np.testing.assert_array_equal(there.waveform, here.waveform)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"picture": None}, "neither picture nor sample_rate_hz"),
        ({"fps": 0.0}, "fps is 0.0"),
        ({"fps": math.nan}, "fps is nan"),
        ({"sample_rate_hz": 100}, "sample_rate_hz is 100"),
        ({"window_seconds": 0.0}, "window_seconds is 0.0"),
        ({"window_seconds": math.inf}, "window_seconds is inf"),
        ({"window_seconds": 1.0, "stride_seconds": -1.0}, "stride_seconds is -1.0"),
        ({"stride_seconds": 1.0}, "stride_seconds is set without window_seconds"),
    ],
)
def test_what_cannot_be_asked_for(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read("a.mp4", **wanted)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"height": 0, "width": 8}, "height is 0"),
        ({"height": 8, "width": 5000}, "width is 5000"),
        ({"height": 8, "width": 9, "short_side": 8}, "short_side is 8; expected 9"),
    ],
)
def test_pictures_of_no_size(size: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Picture(**size)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("raymc.features.decoding")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(raymc.features, "decoding")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ResourceError, match=r"needs PyAV.*pip install 'raymc\[media\]'"):
        read("a.mp4")
