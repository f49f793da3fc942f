"""Media files of all kinds, made by chance from a seed, and what a full decode of them shows.

`python tests/features/media_cases.py FIRST LAST` tries the files of many seeds, counts by kind, and
prints those that differ. Pictures show their number, and sound is loud and soft by its time.
"""

import math
import random
import re
import struct
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation
from media_files import Sound, Video, loudness_of, number_in, write_media

from raymc.features.clips import Clip, ClipRequest, Failure, Picture
from raymc.features.decoding.faults import ErrorLog
from raymc.features.media import read_clips
from raymc.features.sources import Source

SMALL = Picture(height=12, width=16)
RATE_HZ = 8000
_EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
_X264 = ("libx264", ".mp4 .mov .mkv .ts .flv .avi .nut .h264 .3gp .mpg .asf .mxf")
_CODECS: tuple[tuple[str, str], ...] = (
    *(_X264,) * 6,
    ("libx265", ".mp4 .mov .mkv .ts .nut .hevc"),
    ("mpeg1video", ".mpg .ts .mkv .avi .mp4 .m1v"),
    ("mpeg2video", ".mpg .ts .mkv .avi .mp4 .mxf .vob .m2v"),
    ("mpeg4", ".mp4 .mkv .avi .ts .mov .nut .3gp"),
    ("libvpx", ".webm .mkv .ogg .ivf .avi .nut"),
    ("libvpx-vp9", ".webm .mkv .mp4 .ivf .nut"),
    ("libsvtav1", ".mp4 .webm .mkv .ivf"),
    ("mjpeg", ".avi .mov .mkv .mp4 .nut"),
    ("ffv1", ".mkv .avi .nut .mov"),
    ("prores_ks", ".mov .mkv"),
    ("flv", ".flv .mkv"),
    ("h263p", ".3gp .mov .avi .mkv"),
    ("wmv2", ".wmv .mkv .avi"),
    ("msmpeg4", ".avi .wmv .mkv"),
    ("qtrle", ".mov .mkv"),
    ("rawvideo", ".avi .mov .nut .mkv"),
    ("png", ".mov .mkv"),
    ("gif", ".gif"),
    ("snow", ".avi .nut"),
    ("rv20", ".rm"),
)
_SOUNDS = {
    ".mp4": "aac libmp3lame",
    ".mov": "aac pcm_s16le",
    ".mkv": "aac flac libopus pcm_s16le libmp3lame",
    ".webm": "libopus",
    ".ts": "aac mp2 libmp3lame",
    ".mpg": "mp2",
    ".vob": "mp2 ac3",
    ".avi": "pcm_s16le libmp3lame mp2",
    ".flv": "aac",
    ".nut": "pcm_s16le flac aac",
    ".ogg": "libopus flac",
    ".wmv": "wmav2",
    ".mxf": "pcm_s16le",
    ".3gp": "aac",
}
_LONGEST = 0.6  # seconds that a picture lasts at most
_REFRESH = "intra-refresh=1"
_PIXELS = {"rgb": ("qtrle", "rawvideo", "png"), "gif": ("gif",)}
_FLAT = {"libx264": ("yuv422p", "yuv444p", "gray", "yuv420p10le"), "ffv1": ("yuv444p", "gray")}


@dataclass(frozen=True)
class Case:
    """A file to be made, and the kinds that it stands for."""

    name: str
    kinds: tuple[str, ...]
    video: Video
    sound: Sound | None
    options: Mapping[str, str]
    change: Callable[[bytes], bytes] | None = None
    parts: int = 1
    is_cut: bool = False


def make_case(seed: int) -> Case:
    """The case of a seed."""
    rng = random.Random(seed)
    codec, suffixes = rng.choice(_CODECS)
    suffix = rng.choice(suffixes.split())
    kinds = [codec, suffix]
    fps = rng.choice([5, 10, 12, 20, 25, 30, 50])
    if suffix in (".mpg", ".vob", ".m1v", ".m2v", ".mxf") or codec.startswith(("mpeg1", "mpeg2")):
        fps = rng.choice([25, 30, 50])
    seconds = rng.choice([2.0, 3.5, 6.0, 9.0])
    video = Video(
        codec=codec,
        fps=fps,
        seconds=seconds,
        is_numbered=True,
        pix_fmt=_pixels(codec, rng),
        options=_options(codec, rng, kinds),
        keys=rng.choices(["true", "all", "first"], [8, 1, 1])[0],
        size=(96, 128),
    )
    if video.keys != "true":
        kinds.append(f"keys: {video.keys}")
    options: dict[str, str] = {}
    if suffix in (".mkv", ".webm", ".mp4", ".mov", ".nut") and rng.random() < 0.2:
        kinds.append("uneven")
        gaps = [rng.choice([0.02, 0.04, 0.1, 0.5]) for _ in range(60)]
        video = replace(video, times=[round(sum(gaps[:k]), 3) for k in range(60)])
    if rng.random() < 0.2 and suffix in (".mp4", ".mov"):
        kinds.append("rotated")
        video = replace(video, rotation=float(rng.choice([90, 180, 270])))
    sound = None
    if suffix in _SOUNDS and rng.random() < 0.6:
        sound = Sound(
            codec=rng.choice(_SOUNDS[suffix].split()),
            seconds=max(seconds + rng.choice([0, 0, 0, -1.2, 2.0]), 1.0),
            start=0 if suffix in (".avi", ".mxf", ".nut") else rng.choice([0, 0, 0, 0.7]),
            rate_hz=48_000,
            layout="mono" if suffix != ".mxf" else "stereo",
            is_stepped=True,
        )
        if suffix == ".mxf":  # FFmpeg writes an MXF no further than its shortest stream
            sound = replace(sound, seconds=max(sound.seconds, seconds))
        if suffix == ".ogg" and sound.codec == "flac":  # FFmpeg has its first page begin at 0
            sound = replace(sound, start=0)
        kinds.append(sound.codec)
    change, parts, is_cut = None, 1, False
    if suffix in (".mp4", ".mov", ".3gp"):
        options, change = _of_mp4(rng, kinds, seconds)
        if sound is not None and "fragments" in kinds:  # FFmpeg stretches the last packets of PCM
            sound = replace(sound, codec="aac")
    elif suffix in (".ts", ".mpg", ".mkv", ".nut") and rng.random() < 0.4:
        offset = rng.choice(
            [0.5, 7.0, 100.0, 95443.7 - 3.7, 95443.7 - 0.3, 95443.7 - 70, 26.6 * 3600]
        )
        if suffix in (".ts", ".mpg") or offset < 1000:
            kinds.append("near the wrap" if 90_000 < offset < 95_443 else "starts late")
            options["output_ts_offset"] = str(offset)
    if suffix in (".ts", ".mpg") and rng.random() < 0.3:
        parts = rng.choice([2, 3])
        kinds.append("joined")
    elif suffix == ".ogg" and seed % 3 == 0:
        parts = 2
        kinds.append("joined")
    elif rng.random() < 0.12:
        is_cut = True
        kinds.append("cut")
        share = rng.uniform(0.3, 0.99)
        before = change or (lambda data: data)
        change = lambda data: before(data)[: int(len(data) * share)]  # noqa: E731
        if suffix in (".mp4", ".mov", ".3gp") and "movflags" not in options:
            options["movflags"] = "faststart"
            change = lambda data: data[: int(len(data) * share)]  # noqa: E731
    return Case(f"{seed}{suffix}", tuple(kinds), video, sound, options, change, parts, is_cut)


def _pixels(codec: str, rng: random.Random) -> str:
    for pixels, codecs in {"rgb24": _PIXELS["rgb"], "rgb8": _PIXELS["gif"]}.items():
        if codec in codecs:
            return pixels
    if codec == "prores_ks":
        return "yuv422p10le"
    if codec == "mjpeg":
        return "yuvj420p"
    if codec in _FLAT and rng.random() < 0.2:
        return rng.choice(_FLAT[codec])
    return "yuv420p"


def _options(codec: str, rng: random.Random, kinds: list[str]) -> dict[str, str]:
    group = rng.choice([1, 2, 5, 12, 30, 250])
    b_frames = rng.choice([0, 0, 1, 2, 3, 5])
    kinds.append(f"g {group}")
    if codec == "libx264":
        params = [f"keyint={group}", f"bframes={b_frames}", "scenecut=0"]
        kind = rng.choice(["", "", "", "open-gop=1", _REFRESH, "interlaced=1", "ref=5"])
        if kind:
            params.append(kind)
            kinds.append(kind)
        params.append(f"b-pyramid={rng.choice(['none', 'strict', 'normal'])}")
        return {"x264-params": ":".join(params), "preset": "ultrafast", "crf": "25"}
    if codec == "libx265":
        params = [f"keyint={group}", f"bframes={b_frames}", "log-level=none", "pools=1"]
        params += [rng.choice(["open-gop=0", "open-gop=1", "open-gop=1:temporal-layers=3"])]
        kinds.append(params[-1])
        return {"x265-params": ":".join(params), "preset": "ultrafast"}
    if codec in ("mpeg1video", "mpeg2video", "mpeg4"):
        options = {"g": str(group), "bf": str(min(b_frames, 3)), "qmax": "4"}
        flags = rng.choice(["", "", "+cgop", "+ildct+ilme"])
        if flags and (codec != "mpeg1video" or "il" not in flags):
            kinds.append(flags)
            options["flags"] = flags
        if flags == "+cgop":
            options["sc_threshold"] = "1000000000"
        return options
    if codec.startswith("libvpx"):
        lag = rng.choice(["0", "16"])
        return {
            "g": str(group),
            "deadline": "realtime" if lag == "0" else "good",
            "cpu-used": "8" if codec == "libvpx-vp9" else "5",
            "lag-in-frames": lag,
            "auto-alt-ref": "1" if lag != "0" else "0",
            "crf": "10",
            "b": "1M",
        }
    if codec == "libsvtav1":
        return {"g": str(group), "preset": "13", "svtav1-params": "lp=1"}
    return {"g": str(group), "qmax": "4"} if codec in ("flv", "h263p", "wmv2", "msmpeg4") else {}


def _of_mp4(
    rng: random.Random, kinds: list[str], seconds: float
) -> tuple[dict[str, str], Callable[[bytes], bytes] | None]:
    kind = rng.choice(["", "", "edits", "edits", "fragments", "fragments", "no stss", "offset"])
    if not kind:
        return {}, None
    kinds.append(kind)
    if kind == "fragments":
        flags = rng.choice(
            ["frag_keyframe+empty_moov", "frag_every_frame+empty_moov", "frag_keyframe+delay_moov",
             "frag_keyframe", "dash+frag_keyframe", "frag_keyframe+empty_moov+negative_cts_offsets",
             "frag_keyframe+empty_moov+default_base_moof"]
        )  # fmt: skip
        return {"movflags": flags, **rng.choice([{}, {"frag_duration": "500000"}])}, None
    if kind == "no stss":
        return {}, lambda data: data.replace(b"stss", b"free")
    if kind == "offset":
        return {"output_ts_offset": rng.choice(["0.5", "7", "0.033"])}, None
    count = rng.choice([1, 2, 3])
    edits = []
    for _ in range(count):
        begin = rng.uniform(0, seconds - 0.5)
        edits.append((round(begin, 2), round(rng.uniform(0.3, seconds - begin), 2)))
    if rng.random() < 0.3:
        edits.insert(0, (-1.0, rng.choice([0.5, 1.0])))
    kinds.append(f"{len(edits)} edits")
    return {}, lambda data: with_edits(data, edits)


def with_edits(data: bytes, edits: list[tuple[float, float]]) -> bytes:
    """An MP4 file with an edit list on its first track: begin and length in seconds each."""

    def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
        at = 0
        while at + 8 <= len(data):
            size, name = struct.unpack(">I4s", data[at : at + 8])
            size = size or len(data) - at
            yield name, data[at + 8 : at + size]
            at += size

    def box(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), name) + body

    def find(data: bytes, *names: bytes) -> bytes:
        for name in names:
            data = dict(reversed([*boxes(data)]))[name]
        return data

    moov = find(data, b"moov")
    scale = struct.unpack(">I", find(moov, b"mvhd")[12:16])[0]
    is_first, parts = True, []
    for name, body in boxes(moov):
        if name == b"trak" and is_first:
            is_first = False
            ticks = struct.unpack(">I", find(body, b"mdia", b"mdhd")[12:16])[0]
            entries = b"".join(
                struct.pack(">IiI", round(n * scale), -1 if b < 0 else round(b * ticks), 1 << 16)
                for b, n in edits
            )
            elst = box(b"elst", struct.pack(">II", 0, len(edits)) + entries)
            others = [box(n, b) for n, b in boxes(body) if n not in (b"edts",)]
            body = others[0] + box(b"edts", elst) + b"".join(others[1:])
        parts.append(box(name, body))
    return b"".join(box(n, b"".join(parts) if n == b"moov" else b) for n, b in boxes(data))


def write_case(case: Case, folder: Path) -> Path | None:
    """Write the file; None where the muxer refuses."""
    path = folder / case.name
    try:
        write_media(path, case.video, case.sound, **case.options)
    except (FFmpegError, ValueError, OSError):
        return None
    data = path.read_bytes()
    if case.change is not None:
        try:
            data = case.change(data)
        except KeyError:
            return None
    path.write_bytes(data * case.parts)
    return path


def full_decode(path: Path, fps: float) -> tuple[list[float], list[np.ndarray]]:
    """Every frame of a file, decoded one after the other by plain av, and when it is shown."""
    times: list[float] = []
    pictures = []
    with av.open(str(path)) as container:
        first = (container.start_time or 0) / av.time_base
        if first < 0:
            with av.open(str(path)) as other:
                frames: Any = [f for _, f in zip(range(300), other.decode()) if f.time is not None]
            first = min(frame.time for frame in frames)
        stream: Any = container.streams.video[0]
        stream.codec_context.thread_count = 1
        # These count packets, or time them in the order of decoding.
        is_numbered = container.format.name in ("avi", "asf", "mxf")
        key = "dts" if container.format.name == "avi" else "pts"
        packets = iter(container.demux(stream))
        numbers: list[int] = []
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:
                break
            if packet is None:
                break
            if is_numbered and packet.size and getattr(packet, key) is not None:
                numbers.append(getattr(packet, key))
            try:
                decoded: Any = stream.codec_context.decode(packet if packet.size else None)
            except FFmpegError:
                decoded = []
            for frame in decoded:
                if is_numbered:
                    number = sorted(numbers)[min(len(times), len(numbers) - 1)]
                    time = number * float(stream.time_base) - first
                elif frame.pts is None:  # it follows the one before
                    time = times[-1] + 1 / fps if times else 0.0
                else:
                    time = float(frame.pts * stream.time_base) - first
                times.append(time)
                how = Interpolation.BILINEAR | _EXACT
                turns = round(frame.rotation / 90)  # counter-clockwise
                size = (12, 16) if turns % 2 else (16, 12)
                picture = frame.reformat(*size, "rgb24", interpolation=how, threads=1)
                pictures.append(np.rot90(picture.to_ndarray(), turns))
    return [max(times[: k + 1]) for k in range(len(times))], pictures


def shown_in(clip: Clip, fps: float, times: list[float]) -> list[int]:
    """The frames of a clip by its definition."""
    length = clip.end_seconds - clip.start_seconds
    count = math.ceil(length * fps - 0.5 - 1e-6)
    moments = [clip.start_seconds + (t + 0.5) / fps for t in range(count)] or [
        clip.end_seconds - 1e-4
    ]
    return [max((i for i, t in enumerate(times) if t <= m + 1e-5), default=0) for m in moments]


REQUESTS: tuple[tuple[float, float, float | None, float | None], ...] = (
    (2.0, 0.0, None, None),
    (0.4, 0.0, None, None),
    (7.0, 1.3, 1.5, 1.1),
    (30.0, 0.0, None, None),
    (1.0, 0.0, 0.7, 11.0),
    (5.0, 2.6, 1.0, None),
)


def wrong_in(case: Case, path: Path) -> list[str]:
    """What differs from the full decode without a failure, and failures of intact files."""
    wrong = []
    times, pictures = full_decode(path, case.video.fps)
    is_odd = bool({*case.kinds} & {"edits", "fragments"}) and not case.is_cut
    has_errors, goes_back = _stumbles(path) if is_odd else (False, False)
    for fps, start, window, stride in REQUESTS:
        request = ClipRequest(
            fps=fps,
            picture=SMALL,
            sample_rate_hz=RATE_HZ if case.sound else None,
            window_seconds=window,
            stride_seconds=stride,
        )
        name = f"fps {fps:g} start {start:g} window {window} stride {stride}"
        for clip in read_clips(Source(path=str(path), id="x", start_seconds=start), request):
            if isinstance(clip, Failure):
                if not (
                    case.is_cut or "nothing after" in clip.error or _is_due(clip.error, times[-1])
                ):
                    wrong.append(f"{name}: {clip.stage}: {clip.error}")
                continue
            told = [f"{f.stage}: {f.error}" for f in clip.failures]
            is_due = case.is_cut or any(_is_due(text, times[-1]) for text in told)
            # where its sound is shorter, FFmpeg times the next recording's as if it went on
            is_due |= {"joined", "flac"} <= {*case.kinds} and "packet's time is wrong" in str(told)
            if told and not (is_due or has_errors or goes_back):
                wrong.append(f"{name} {clip.id}: false: {told}")
            if clip.frames is None:
                if not told:
                    wrong.append(f"{name} {clip.id}: no frames")
            elif not any(text.startswith(("video", "open")) for text in told):
                if case.parts > 1:
                    wrong += _wrong_numbers(case, clip, fps, name)
                elif not goes_back:
                    shown = shown_in(clip, fps, times)
                    if len(shown) != len(clip.frames):
                        wrong.append(f"{name} {clip.id}: {len(clip.frames)} not {len(shown)}")
                        continue
                    found = [
                        k for k, i in enumerate(shown) if (pictures[i] != clip.frames[k]).any()
                    ]
                    if found:
                        there = [number_in(clip.frames[k]) for k in found[:5]]
                        right = [number_in(pictures[shown[k]]) for k in found[:5]]
                        wrong.append(f"{name} {clip.id}: SILENT {there} not {right}, {len(found)}")
            if case.sound and clip.waveform is not None and not told:
                wrong += _wrong_sound(case, path, clip, name, times[0])
    return wrong


def _is_due(text: str, last: float) -> bool:
    """Whether a failure is due: sound or video is shorter than the other, or than the file says."""
    due = ("repeat the nearest", "sound ends at", "no sound here")
    end = re.search(r"the file ends at ([\d.]+) s", text)
    return any(words in text for words in due) or (
        end is not None and last <= float(end[1]) + 0.05 <= last + _LONGEST
    )


def _stumbles(path: Path) -> tuple[bool, bool]:
    """Whether plain decoding has errors, and whether its times go back.

    So it is where an edit begins between key frames, or at one that only claims to be it, and in
    uneven fragments, whose times FFmpeg writes before it knows them.
    """
    log, has_errors, last, goes_back = ErrorLog(), False, -math.inf, False
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                frames: Any = packet.decode()
            except FFmpegError:
                has_errors, frames = True, []
            has_errors |= bool(log.last())
            for time in (frame.time for frame in frames if frame.time is not None):
                goes_back |= time < last - 0.2
                last = max(last, time)
    return has_errors, goes_back


def _wrong_numbers(case: Case, clip: Clip, fps: float, name: str) -> list[str]:
    """Numbers of joined parts: those of each part, in order, within some frames.

    A part begins where the pictures or the sound of the one before it end.
    """
    seconds, rate = case.video.seconds, case.video.fps
    longest = max(seconds, case.sound.seconds + case.sound.start if case.sound else 0.0)
    for k, picture in enumerate(clip.frames if clip.frames is not None else []):
        moment = clip.start_seconds + (k + 0.5) / fps
        slack = 0.15 * case.parts * rate + 3
        spans = [
            ((moment - part * longest) * rate - slack, (moment - part * seconds) * rate + slack)
            for part in range(case.parts)
        ]
        number = number_in(picture)
        spans += [(seconds * rate - 3, seconds * rate + 1)] if longest > seconds else []
        if not any(low <= number <= high for low, high in spans):
            return [f"{name} {clip.id}: SILENT joined {number} at {moment:.2f}"]
    return []


def _wrong_sound(case: Case, path: Path, clip: Clip, name: str, first: float) -> list[str]:
    """Sound that isn't as loud as it should be; `first`: when the first picture is shown."""
    if case.sound is None or clip.waveform is None:
        return []
    shifts = [case.sound.start]
    if "fragments" in case.kinds:  # FFmpeg may lose where sound starts when it writes them
        shifts += [first, 0.0, case.sound.start + first]
    if "edits" in case.kinds:  # the file may begin later than its first edit
        with av.open(str(path)) as container:
            shifts.append(case.sound.start - (container.start_time or 0) / av.time_base)
    last = clip.end_seconds - (1.1 if case.is_cut else 0.0)  # sound may end so much earlier
    # Sound that is much longer than the pictures may follow on itself, without its late start.
    ends = (case.video.seconds, case.sound.seconds + case.sound.start, case.sound.seconds)
    for part in range(case.parts):  # each begins about where pictures or sound before it end
        bases = [sum(chosen) for chosen in combinations_with_replacement(ends, part)]
        slips = sorted((k / 50 for k in range(-12 * part, 12 * part + 1)), key=abs)
        tried = [base + slip + shift for slip in slips for base in bases for shift in shifts]
        if all(_first_wrong_sound(case.sound, clip, shift, last) for shift in tried):
            found = _first_wrong_sound(case.sound, clip, tried[0], last)
            return [f"{name} {clip.id}: SOUND of part {part}: {found}"]
    return []


def _first_wrong_sound(sound: Sound, clip: Clip, shift: float, last: float) -> str:
    waveform = np.zeros(0) if clip.waveform is None else clip.waveform
    for slot in np.arange(0, sound.seconds - 0.3, 0.25):
        begin = slot + shift + 0.08 - clip.start_seconds
        low, high = round(begin * RATE_HZ), round((begin + 0.09) * RATE_HZ)
        if low < 0 or high > len(waveform) or slot + shift + 0.2 > last:
            continue
        found = np.sqrt(np.mean(waveform[low:high] ** 2) * 2)
        wanted = float(loudness_of(np.array([slot + 0.01]))[0])
        wanted /= 1 if sound.layout == "mono" else 4 / 3
        if abs(found - wanted) > 0.25 * wanted + 0.03:
            return f"at {slot + shift:.2f}: {found:.2f} not {wanted:.2f}"
    return ""


def main(first: int, last: int) -> None:
    """Try the files of seeds from first to before last."""
    tried, right = Counter[str](), Counter[str]()
    with TemporaryDirectory() as folder:
        for seed in range(first, last):
            case = make_case(seed)
            path = write_case(case, Path(folder))
            if path is None:
                continue
            try:
                full = full_decode(path, case.video.fps)[0]
                wrong = wrong_in(case, path) if full else []
            except (FFmpegError, OSError, IndexError) as error:
                wrong = [] if case.is_cut else [f"av: {error}"]
            except Exception:
                wrong = [traceback.format_exc()]
            path.unlink()
            for kind in ("all", *case.kinds):
                tried[kind] += 1
                right[kind] += not wrong
            if wrong:
                print(
                    seed,
                    *case.kinds,
                    f"{len(wrong)} wrong:\n   " + "\n   ".join(wrong[:2]),
                    flush=True,
                )
    for kind, count in sorted(tried.items()):
        print(f"{kind}: {count} tried, {right[kind]} right")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
