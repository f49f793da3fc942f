"""Small media files of many formats, and ways to damage them."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from media_files import Sound, Video, write_media

CHECKED = (
    Video(codec="ffv1", options={"slicecrc": "1", "g": "5"}, seconds=2.0),
    Sound(codec="flac", seconds=2.0),
)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 5, 50])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def spoil_head(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 5, 20])):
        data[rng.randrange(min(len(data), 1000))] = rng.choice([0, 127, 255, rng.randrange(256)])


def drop(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice([1, 100, 5000])]


def blank(data: bytearray, rng: random.Random) -> None:
    at, size = rng.randrange(len(data)), rng.choice([10, 1000])
    data[at : at + size] = bytes(len(data[at : at + size]))


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    cut,
    flip,
    spoil_head,
    drop,
    blank,
)
FUZZED: dict[str, tuple[Video | None, Sound]] = {
    "a.mkv": (replace(CHECKED[0], seconds=1.2), replace(CHECKED[1], seconds=1.2)),
    "b.mp4": (Video(options={"g": "12"}, seconds=1.2), Sound(seconds=1.2)),
    "c.ts": (Video(codec="mpeg2video", seconds=1.2), Sound(codec="mp2", seconds=1.2)),
    "d.mpg": (Video(codec="mpeg1video", seconds=1.2), Sound(codec="mp2", seconds=1.2)),
    "e.avi": (Video(codec="mpeg4", seconds=1.2), Sound(codec="pcm_s16le", seconds=1.2)),
    "f.flv": (Video(codec="flv", seconds=1.2), Sound(seconds=1.2)),
    "g.wav": (None, Sound(codec="pcm_s16le", seconds=1.2)),
    "h.mp3": (None, Sound(codec="libmp3lame", seconds=1.2)),
}


def write_fuzzed(folder: Path) -> dict[str, bytes]:
    """Write the files of `FUZZED`, and return what they hold."""
    files = FUZZED.items()
    return {name: write_media(folder / name, *streams).read_bytes() for name, streams in files}
