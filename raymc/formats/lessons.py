"""The made-up lessons: short videos for small children, with APPROVE's classes and label sets.

`lesson_rules.py` says what the classes mean, `lesson_sounds.py` speaks. From the same seed come a
dataset of features, which needs no video, and real MP4 files with a table of labels and a list of
all cues with their times (`write_videos`).

Axes: T frames, H height, W width, S samples.
"""

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from raymc.config import LessonsConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row
from raymc.errors import ResourceError
from raymc.features.audio import resample
from raymc.features.encoders import audio_encoder, text_encoder, visual_encoder
from raymc.features.encoders.screen import lines_by_interval
from raymc.features.transcripts import Cue, sentences_by_interval
from raymc.formats.lesson_rules import (
    BACKGROUND,
    COUNTS,
    DISTRACTORS,
    LITERACY,
    LITERACY_SETS,
    MATH,
    MATH_SETS,
    SCENES,
    THINGS,
    Mark,
    Picture,
    Scene,
    Things,
    spelt,
)
from raymc.formats.lesson_sounds import RATE_HZ, Voice, music, say
from raymc.formats.recipe import DatasetRecipe, LazyRows

HEIGHT, WIDTH, FPS = 360, 640, 5
SPLITS = ("train", "val", "test")
# Share of APPROVE's videos that are made, and the least seconds of one.
_SIZES = {
    "tiny": (1 / 16, (8.0, 12.0)),
    "small": (1 / 4, (8.0, 12.0)),
    "approve": (1.0, (20.0, 60.0)),
}
_TEXT_SECONDS = 2.0
_STILL_SECONDS = 0.8  # the least time that a picture is shown
_GAP_SECONDS = 0.35
_LICENSE = "synthetic: no rights reserved by raymc; counts of labels after APPROVE (CC BY-NC 4.0)"


@dataclass(frozen=True)
class Shot:
    """A picture, from when to when it is shown."""

    start_seconds: float
    end_seconds: float
    picture: Picture


@dataclass(frozen=True)
class Span:
    """A scene of a lesson, from when to when it lasts; a distractor has no label."""

    start_seconds: float
    end_seconds: float
    label: str | None
    scene: Scene


@dataclass(frozen=True)
class Style:
    """How a lesson looks and sounds."""

    font: str
    paper: tuple[int, int, int]
    colours: tuple[tuple[int, int, int], ...]
    voice: Voice


@dataclass(frozen=True)
class Lesson:
    """All of a lesson but its pixels: its scenes, pictures and sentences with their times."""

    id: str
    seconds: float
    labels: tuple[str, ...]
    style: Style
    spans: tuple[Span, ...]
    shots: tuple[Shot, ...]
    said: tuple[Cue, ...]
    seed: tuple[int, ...]


def lessons(config: LessonsConfig) -> DatasetRecipe:
    """Return the recipe of the dataset of features: patches, log-mel, and words as they are.

    The words are those of the list of cues, not recognised ones: `raymc extract` on the videos of
    `write_videos` gives what recognisers make of them. Each row is computed from the seed, the
    split and its number alone.

    Raises:
        ResourceError: The synthesiser's package is not installed.
    """
    plan = label_plan(config)
    rate_hz = 1 / _TEXT_SECONDS
    encoders = {
        "visual": visual_encoder("patches", fps=1.0),
        "audio": audio_encoder("logmel", rate_hz=2.5),
        "speech": text_encoder("words", rate_hz=rate_hz),
        "screen": text_encoder("words", rate_hz=rate_hz),
    }
    return DatasetRecipe(
        vocabulary=vocabulary(),
        modalities=tuple(
            Modality(name, dim=one.dim, rate_hz=one.rate_hz, encoder=f"{one.name} ({one.license})")
            for name, one in encoders.items()
        ),
        splits={
            split: LazyRows(len(plan[split]), partial(_row, config, split, plan[split], encoders))
            for split in SPLITS
        },
        provenance={"recipe": "raymc lessons 1", "size": config.size, "seed": config.seed},
        license=_LICENSE,
    )


def vocabulary() -> Vocabulary:
    """Return the 19 labels, with their parents literacy and math."""
    parents = dict.fromkeys(LITERACY.values(), "literacy")
    parents |= dict.fromkeys(MATH.values(), "math")
    names = (*LITERACY.values(), *MATH.values(), BACKGROUND)
    return Vocabulary(names, background=BACKGROUND, parents=parents)


def label_plan(config: LessonsConfig) -> dict[str, list[str]]:
    """Return the codes of each lesson's labels by split; empty for background.

    The sets of labels are dealt to the splits at random, in the numbers of APPROVE; a smaller size
    takes the same share of each split and domain.
    """
    rng = np.random.default_rng([config.seed, 19])
    share, _ = _SIZES[config.size]
    plan: dict[str, list[str]] = {split: [] for split in SPLITS}
    for domain, sets in enumerate((MATH_SETS, LITERACY_SETS, None)):
        if sets is None:
            deck = [""] * sum(counts[domain] for counts in COUNTS.values())
        else:
            pairs = [entry.partition(":") for entry in sets.split()]
            deck = [codes for codes, _, count in pairs for _ in range(int(count or 1))]
        deck = [deck[i] for i in rng.permutation(len(deck))]
        for split in SPLITS:
            count = COUNTS[split][domain]
            plan[split] += deck[: max(round(share * count), 2)]
            deck = deck[count:]
    return {split: [sets[i] for i in rng.permutation(len(sets))] for split, sets in plan.items()}


def draw_lesson(config: LessonsConfig, split: str, number: int, codes: str) -> Lesson:
    """Return lesson `number` of a split, with a scene or two of each of its classes."""
    seed = (config.seed, SPLITS.index(split), number)
    rng = np.random.default_rng(seed)
    things = THINGS[split]
    style = _style(things, rng)
    low, high = _SIZES[config.size][1]
    least = rng.uniform(low, high)
    made = [(code, SCENES[code](things, rng)) for code in codes]
    scenes: list[tuple[str | None, Scene]] = [*made, (None, _distractor(things, rng))]
    while sum(_seconds(scene, style) for _, scene in scenes) < least:
        again = codes and rng.random() < 0.4
        code = codes[rng.integers(len(codes))] if again else None
        scenes.append((code, SCENES[code](things, rng) if code else _distractor(things, rng)))
    scenes = [scenes[i] for i in rng.permutation(len(scenes))]
    names = {**LITERACY, **MATH}
    spans, shots, said, at = [], [], [], 0.5
    for code, scene in scenes:
        begin = at
        for step in scene.steps:
            spoken = len(say(step.said, style.voice)) / RATE_HZ if step.said else 0.0
            said += [Cue(at, at + spoken, step.said)] if step.said else []
            lasts = max(spoken + _GAP_SECONDS, _STILL_SECONDS * len(step.pictures))
            each = lasts / len(step.pictures)
            shots += [
                Shot(at + i * each, at + (i + 1) * each, picture)
                for i, picture in enumerate(step.pictures)
            ]
            at += lasts
        spans.append(Span(begin, at, names[code] if code else None, scene))
    labels = tuple(sorted({names[code] for code in codes})) or (BACKGROUND,)
    return Lesson(
        id=f"{split}-{number:04d}", seconds=at + 0.5, labels=labels, style=style,
        spans=tuple(spans), shots=tuple(shots), said=tuple(said), seed=seed,
    )  # fmt: skip


def _distractor(things: Things, rng: np.random.Generator) -> Scene:
    return DISTRACTORS[rng.integers(len(DISTRACTORS))](things, rng)


def _style(things: Things, rng: np.random.Generator) -> Style:
    colours = [things.colours[i] for i in rng.permutation(len(things.colours))]
    voice = Voice(
        things.voices[rng.integers(len(things.voices))],
        words_a_minute=int(rng.integers(125, 165)),
        pitch=int(rng.integers(35, 70)),
    )
    return Style(
        font=things.fonts[rng.integers(len(things.fonts))],
        paper=things.papers[rng.integers(len(things.papers))],
        colours=tuple(colours),
        voice=voice,
    )


def _seconds(scene: Scene, style: Style) -> float:
    return sum(
        max(
            len(say(step.said, style.voice)) / RATE_HZ + _GAP_SECONDS,
            _STILL_SECONDS * len(step.pictures),
        )
        for step in scene.steps
    )


def sound_of(lesson: Lesson) -> Float32[np.ndarray, " S"]:
    """Return a lesson's sound at `RATE_HZ`: its sentences, and music and noise under them."""
    rng = np.random.default_rng((*lesson.seed, 1))
    mixed = music(lesson.seconds, rng) * np.float32(10 ** (rng.uniform(-42, -32) / 20))
    for cue in lesson.said:
        spoken = say(cue.text, lesson.style.voice)
        start = round(cue.start_seconds * RATE_HZ)
        mixed[start : start + len(spoken)] += 0.8 * spoken[: len(mixed) - start]
    return np.clip(mixed, -1, 1)


def picture_at(lesson: Lesson, seconds: float) -> Picture:
    """Return what is shown at a moment."""
    return next(
        (shot.picture for shot in lesson.shots if shot.start_seconds <= seconds < shot.end_seconds),
        (),
    )


def lines_of(lesson: Lesson) -> list[Cue]:
    """Return what is written, and from when to when."""
    return [
        Cue(shot.start_seconds, shot.end_seconds, " ".join(texts))
        for shot in lesson.shots
        if (texts := [mark.text for mark in shot.picture if mark.kind == "text"])
    ]


@lru_cache(maxsize=64)
def paint(picture: Picture, style: Style) -> UInt8[np.ndarray, "H W 3"]:
    """Draw a picture."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), style.paper)
    draw = ImageDraw.Draw(image)
    for mark in picture:
        _paint(draw, mark, style)
    return np.asarray(image)


def _paint(draw: Any, mark: Mark, style: Style) -> None:
    x, y, size = mark.x * HEIGHT, mark.y * HEIGHT, mark.size * HEIGHT
    colour = style.colours[mark.colour % len(style.colours)]
    if mark.kind == "text":
        draw.text((x, y), mark.text, fill=colour, font=_font(style.font, round(size)), anchor="mm")
    elif mark.kind == "bar":
        draw.rectangle((x - size, y - 10, x + size, y + 10), fill=colour)
    elif mark.kind == "outline":
        corners = _corners_of(mark.text, x, y, size / 2)
        edges = [*zip(corners, corners[1:] + corners[:1])]
        for one, end in edges[: mark.done if mark.done < 99 else len(edges)]:
            draw.line((*one, *end), fill=colour, width=5)
    elif mark.kind == "circle":
        draw.ellipse((x - size / 2, y - size / 2, x + size / 2, y + size / 2), fill=colour)
    else:
        draw.polygon(_corners_of(mark.kind, x, y, size / 2), fill=colour)


def _corners_of(kind: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Return the corners of `polygonN`, `starN`, `diamond`; of a circle those of a polygon of 8."""
    count = int("".join(filter(str.isdigit, kind)) or 0) or {"diamond": 4, "circle": 8}[kind]
    turn = math.pi / 4 if kind == "polygon4" else 0.0
    star = kind.startswith("star")
    corners = []
    for i in range(count * (2 if star else 1)):
        angle = turn - math.pi / 2 + 2 * math.pi * i / (count * (2 if star else 1))
        far = radius * (0.45 if star and i % 2 else 1.0)
        squeeze = 0.6 if kind == "diamond" else 1.0
        corners.append((x + squeeze * far * math.cos(angle), y + far * math.sin(angle)))
    return corners


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", size)


def _row(
    config: LessonsConfig, split: str, plan: Sequence[str], encoders: dict[str, Any], i: int
) -> Row:
    from PIL import Image

    lesson = draw_lesson(config, split, i, plan[i])
    side = encoders["visual"].picture.height
    moments = np.arange(0.5, lesson.seconds)
    frames = [
        np.asarray(
            Image.fromarray(paint(picture_at(lesson, at), lesson.style)).resize(
                (side, side), Image.Resampling.BOX
            )
        )
        for at in moments
    ]
    waveform = resample(torch.from_numpy(sound_of(lesson)), RATE_HZ, 16_000).numpy()
    rate_hz = 1 / _TEXT_SECONDS
    heard = [replace(cue, text=spelt(cue.text)) for cue in lesson.said]
    said = sentences_by_interval(heard, lesson.seconds, rate_hz)
    written = lines_by_interval(lines_of(lesson), lesson.seconds, rate_hz)
    seen = {"visual": np.stack(frames), "audio": waveform, "speech": said, "screen": written}
    tokens = {name: encoders[name].encode(each).astype(np.float16) for name, each in seen.items()}
    return Row(id=lesson.id, labels=lesson.labels, tokens=tokens)


def write_videos(
    config: LessonsConfig,
    folder: Path,
    *,
    on_video: Callable[[int, int], None] = lambda video, videos: None,
) -> Path:
    """Write the lessons as MP4 files, `lessons.csv` (path, labels, split) and `cues.jsonl`.

    A line of `cues.jsonl` is a lesson: its path, labels, and the times of each scene, picture and
    sentence. Files that exist are kept, so the same call resumes.

    Returns:
        The table.

    Raises:
        ResourceError: PyAV or the synthesiser's package is not installed.
    """
    plan = label_plan(config)
    folder.mkdir(parents=True, exist_ok=True)
    numbered = [(split, i) for split in SPLITS for i in range(len(plan[split]))]
    rows, cues = [], []
    for count, (split, i) in enumerate(numbered, 1):
        lesson = draw_lesson(config, split, i, plan[split][i])
        file = folder / f"{lesson.id}.mp4"
        if not file.exists():
            write_video(lesson, file)
        rows.append((file.name, ";".join(lesson.labels), split))
        cues.append(json.dumps({"path": file.name, **cues_of(lesson)}))
        on_video(count, len(numbered))
    (folder / "cues.jsonl").write_text("\n".join(cues) + "\n", "utf-8")
    table = folder / "lessons.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "labels", "split"), *rows])
    return table


def cues_of(lesson: Lesson) -> dict[str, Any]:
    """Return a lesson's list of cues: what its scenes are, what is said and written, and when."""
    return {
        "labels": lesson.labels,
        "scenes": [
            {"start": round(s.start_seconds, 3), "end": round(s.end_seconds, 3), "label": s.label,
             "facts": dict(s.scene.facts)}
            for s in lesson.spans
        ],
        "said": [_timed(cue) for cue in lesson.said],
        "written": [_timed(cue) for cue in lines_of(lesson)],
    }  # fmt: skip


def _timed(cue: Cue) -> dict[str, Any]:
    return {
        "start": round(cue.start_seconds, 3),
        "end": round(cue.end_seconds, 3),
        "text": cue.text,
    }


def write_video(lesson: Lesson, file: Path) -> None:
    """Write a lesson as MP4: MPEG-4 video of 640 × 360 pixels, AAC sound."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ResourceError(
            "writing videos needs PyAV, which is not installed: pip install 'raymc[media]'"
        ) from error
    waiting = file.with_suffix(".part")
    with av.open(str(waiting), "w", format="mp4") as container:
        video: Any = container.add_stream("mpeg4", rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.bit_rate = 400_000
        audio: Any = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        for index in range(round(lesson.seconds * FPS)):
            pixels = paint(picture_at(lesson, (index + 0.5) / FPS), lesson.style)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        sound = sound_of(lesson)
        for start in range(0, len(sound), 1024):
            samples = np.ascontiguousarray(sound[None, start : start + 1024])
            part = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            part.sample_rate, part.pts = RATE_HZ, start
            part.time_base = Fraction(1, RATE_HZ)
            container.mux(audio.encode(part))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    waiting.rename(file)
