"""Segments of labels in lessons whose times are known: hysteresis beside a plain threshold.

A lesson is a video in which handwritten digits are shown and keypad tones are heard, each for some
seconds, independently of each other. A model is trained on windows of some lessons, and finds the
digits in others. Its thresholds and probabilities are fitted on windows of a third set.

With `--lessons`, the lessons are those of `raymc data lessons`, whose scenes have a label each. The
model reads what is said and written in them as it is, not as programs recognise it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from jobs.bench.measure import NAME, Columns, Measurement, plus_minus, publish, table
from raymc.config import AUTO, Config, ExtractConfig, from_dict
from raymc.data.feed.feed import Feed, Feeds
from raymc.data.labels import Vocabulary, label_counts
from raymc.data.shards import (
    Dataset,
    Modality,
    Row,
    open_dataset,
    read_shard,
    token_means,
    write_dataset,
)
from raymc.errors import DataError
from raymc.evaluation.segments import FoundSegment, TrueSegment, segment_average_precision
from raymc.evaluation.timeline import Timeline, score_windows
from raymc.events import EpochEnded
from raymc.features.extraction import (
    EncodedClip,
    extract_files,
    make_encoders,
    plan_extraction,
)
from raymc.features.recipe import MADE_BY
from raymc.features.sources import Source
from raymc.formats.digit_sounds import Tones, coloured_noise, draw_tones
from raymc.formats.digits import images_of
from raymc.formats.lesson_rules import BACKGROUND
from raymc.formats.lessons import vocabulary
from raymc.training import loop
from raymc.training.bundle import Bundle, load_bundle, save_bundle

LABELS = tuple(f"{what}_{k}" for what in ("shown", "heard") for k in range(10))
SIDE, FPS, SAMPLE_RATE_HZ = 32, 5, 8000
GAP_SECONDS, EVENT_SECONDS = (1.0, 5.0), (2.0, 8.0)
LEAST_SHARE = 0.25  # of a window that a label must fill to be one of its labels
IOUS = (0.5, 0.3, 0.7)
_COUNTS = {"train": 16, "val": 8, "test": 8}  # lessons of a minute


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """How many lessons there are, and how they are cut."""

    seeds: int = Field(default=3, ge=1, description="How often lessons and models are made.")
    first_seed: int = Field(default=0, ge=0, description="Of these.")
    train: int | None = Field(
        default=None, ge=2, description="Lessons for training; by default 16, or all of `lessons`."
    )
    val: int | None = Field(default=None, ge=2, description="For thresholds; 8, or all.")
    test: int | None = Field(default=None, ge=2, description="In which segments are found.")
    window: float = Field(default=2.0, gt=0, description="Seconds of a window.")
    lessons: str = Field(
        default="",
        description="Folder that `raymc data lessons` has written, in place of digits; then only "
        "training differs by seed.",
    )
    epochs: int = Field(default=10, ge=1, description="Of training.")
    split: Literal["val", "test"] = Field(default="test", description="Whose segments are judged.")


@plain_dataclass(frozen=True)
class Lesson:
    """A video, and when each label shows in it."""

    path: str
    truth: Mapping[str, Sequence[TrueSegment]]

    def labels(self, start: float, end: float) -> list[str]:
        """Return the labels that fill enough of a window."""
        least = LEAST_SHARE * (end - start)
        return [
            label
            for label, segments in self.truth.items()
            if sum(max(0.0, min(end, s.end) - max(start, s.start)) for s in segments) >= least
        ]


def bench_timeline(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Find segments in every way with every seed; prints mean ± standard deviation in percent.

    Raises:
        DataError: The folder of lessons has no list of cues.
    """
    found: dict[str, Measurement] = {}
    with TemporaryDirectory() as folder:
        for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
            judged, lessons = _timelines(Path(folder), settings, seed)
            for name, changed in ways(judged).items():
                precision = {f"mAP@{iou:g}": 100 * mean_ap(changed, lessons, iou) for iou in IOUS}
                one = found.setdefault(name, Measurement(name))
                one.add(**precision, segments=sum(len(each.all_segments) for each in changed))
            true = sum(len(segments) for one in lessons for segments in one.truth.values())
            one = found.setdefault("true segments", Measurement("true segments"))
            one.add(segments=true, lessons=len(lessons), labels=len(lessons[0].truth))
    columns: Columns = {
        **NAME,
        **{
            f"mAP@{iou:g}": lambda m, iou=iou: (
                plus_minus(m[name]) if m[name := f"mAP@{iou:g}"] else ""
            )
            for iou in IOUS
        },
        "segments": lambda m: f"{np.mean(m['segments']):.0f}",
    }
    true = found.pop("true segments")
    measurements = [*found.values(), true]
    text = (
        f"{true['lessons'][0]} lessons, {true['labels'][0]} labels, windows of "
        f"{settings.window:g} s, {settings.seeds} seeds; mean AP of segments by temporal IoU, in "
        f"percent.\n\n"
    )
    publish("Timeline", text + table(columns, measurements), measurements, console, out)


def ways(judged: Sequence[Timeline]) -> dict[str, list[Timeline]]:
    """Return the same timelines with other ways to segments, by what they are called."""
    apart = [side_by_side(one) for one in judged]
    whole = [replace(one, least_seconds=one.window_seconds) for one in judged]
    sets = {"side by side": apart, "overlapping": judged}
    found = {
        f"threshold, windows {name}": [replace(one, leave_share=1.0) for one in some]
        for name, some in sets.items()
    }
    for name, some, share in (
        *(("side by side", apart, 0.5), ("overlapping", judged, 0.75)),
        *(("overlapping", judged, share) for share in (0.5, 0.25, 0.1)),
        ("overlapping, none below a window", whole, 0.5),
    ):
        changed = [replace(one, leave_share=share) for one in some]
        found[f"hysteresis to {share:g} of it, windows {name}"] = changed
    return found


def side_by_side(timeline: Timeline) -> Timeline:
    """Return a timeline of windows that overlap by half without every second one."""
    return replace(
        timeline,
        starts=timeline.starts[::2],
        ends=timeline.ends[::2],
        scores=timeline.scores[::2],
        embeddings=timeline.embeddings[::2],
        alone={},
        stride_seconds=timeline.window_seconds,
    )


def mean_ap(judged: Sequence[Timeline], lessons: Sequence[Lesson], iou: float) -> float:
    """Return the mean, over labels, of the average precision of their segments."""
    values = []
    for label in lessons[0].truth:
        truth = [segment for one in lessons for segment in one.truth[label]]
        found = [
            FoundSegment(lesson.path, one.start, one.end, one.value)
            for lesson, timeline in zip(lessons, judged)
            for one in timeline.all_segments
            if one.label == label
        ]
        values.append(segment_average_precision(found, truth, iou=iou))
    return float(np.nanmean(values))


def _timelines(folder: Path, settings: Settings, seed: int) -> tuple[list[Timeline], list[Lesson]]:
    """Make lessons or take those there are, train on some, and return the timelines of others."""
    if settings.lessons:
        lessons = {
            split: some[: getattr(settings, split)]
            for split, some in read_lessons(Path(settings.lessons), folder / "videos").items()
        }
        features: dict[str, Any] = {"text": AUTO, "text_interval_seconds": 2.0}
    else:
        folder = folder / str(seed)
        lessons = _made_lessons(folder, settings, seed)
        features = {"fps": float(FPS), "visual": "patches"}
    extract = ExtractConfig(**features, window_seconds=settings.window)
    data = folder / "data"
    dataset = open_dataset(str(data)) if data.exists() else _dataset(data, lessons, extract)
    overlapping = replace(extract, stride_seconds=settings.window / 2)
    bundle = _train(dataset, folder / f"run-{seed}", settings.epochs, seed)
    read, _ = _reader(overlapping)
    judged = lessons[settings.split]
    return [_timeline(bundle, one.path, read, overlapping) for one in judged], judged


def _made_lessons(folder: Path, settings: Settings, seed: int) -> dict[str, list[Lesson]]:
    tones, lessons = draw_tones(seed), dict[str, list[Lesson]]()
    folder.mkdir()
    for place, split in enumerate(("train", "val", "test")):
        count = getattr(settings, split) or _COUNTS[split]
        rng = np.random.default_rng([seed, place])
        files = (folder / f"{split}-{i}.mp4" for i in range(count))
        lessons[split] = [write_lesson(file, split, tones, rng) for file in files]
    return lessons


def read_lessons(folder: Path, links: Path) -> dict[str, list[Lesson]]:
    """Return the lessons that `raymc data lessons` has written, by split.

    `links` gets a link to each video, with what is said and written in it beside it, as .vtt.

    Raises:
        DataError: The folder has no list of cues.
    """
    cues = folder / "cues.jsonl"
    if not cues.exists():
        raise DataError(f"{cues} is missing: make the lessons with `raymc data lessons {folder}`")
    labels = [name for name in vocabulary().names if name != BACKGROUND]
    lessons: dict[str, list[Lesson]] = {}
    links.mkdir(exist_ok=True)
    for told in map(json.loads, cues.read_text("utf-8").splitlines()):
        file = links / told["path"]
        if not file.exists():
            file.symlink_to((folder / told["path"]).absolute())
            words = sorted((*told["said"], *told["written"]), key=lambda cue: cue["start"])
            file.with_suffix(".vtt").write_text(_vtt(words), "utf-8")
        truth: dict[str, list[TrueSegment]] = {label: [] for label in labels}
        for scene in told["scenes"]:
            if scene["label"]:
                one = TrueSegment(str(file), scene["start"], scene["end"])
                truth[scene["label"]].append(one)
        lessons.setdefault(told["path"].partition("-")[0], []).append(Lesson(str(file), truth))
    return lessons


def _vtt(cues: Sequence[Mapping[str, Any]]) -> str:
    def clock(seconds: float) -> str:
        return f"{int(seconds // 3600):02}:{int(seconds // 60) % 60:02}:{seconds % 60:06.3f}"

    texts = (f"{clock(c['start'])} --> {clock(c['end'])}\n{c['text']}\n" for c in cues)
    return "\n".join(["WEBVTT\n", *texts])


def write_lesson(
    file: Path, split: str, tones: Tones, rng: np.random.Generator, seconds: float = 60.0
) -> Lesson:
    """Write a lesson as a video, with pictures and lines that no other split has."""
    speaker = str(rng.choice(tones.speakers[split]))
    shown, heard = (list(_events(rng, seconds)) for _ in range(2))
    pictures = np.zeros((round(seconds * FPS), SIDE, SIDE))
    for digit, start, end in shown:
        images = images_of(split)[digit]
        image = images[rng.integers(len(images))].reshape(8, 8).repeat(SIDE // 8, 0)
        pictures[round(start * FPS) : round(end * FPS)] = image.repeat(SIDE // 8, 1)
    pictures = pictures * rng.uniform(0.7, 1.0) + rng.normal(0, 0.1, pictures.shape)
    sound = 0.3 * coloured_noise(round(seconds * SAMPLE_RATE_HZ), 0.5, rng)
    for digit, start, end in heard:
        at = start
        while at < end:  # the key is pressed again and again
            tone = tones.sound(speaker, digit, rng)[: round((end - at) * SAMPLE_RATE_HZ)]
            first = round(at * SAMPLE_RATE_HZ)
            sound[first : first + len(tone)] += tone
            at += len(tone) / SAMPLE_RATE_HZ + rng.uniform(0.1, 0.4)
    _write(file, (255 * pictures.clip(0, 1)).astype(np.uint8), 0.1 * sound)
    truth: dict[str, list[TrueSegment]] = {label: [] for label in LABELS}
    for what, events in (("shown", shown), ("heard", heard)):
        for digit, start, end in events:
            truth[f"{what}_{digit}"].append(TrueSegment(str(file), start, end))
    return Lesson(str(file), truth)


def _events(rng: np.random.Generator, seconds: float) -> Iterator[tuple[int, float, float]]:
    """Yield digits with their times, with gaps between them; times are those of pictures."""
    at = 0.0
    while (start := at + rng.uniform(*GAP_SECONDS)) < seconds - EVENT_SECONDS[0]:
        at = min(seconds, start + rng.uniform(*EVENT_SECONDS))
        yield int(rng.integers(10)), round(start * FPS) / FPS, round(at * FPS) / FPS


def _write(file: Path, pictures: np.ndarray, sound: np.ndarray) -> None:
    import av

    with av.open(str(file), "w") as container:
        video: Any = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        audio: Any = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        for index, picture in enumerate(pictures):
            grey = np.ascontiguousarray(picture[:, :, None].repeat(3, 2))
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        for start in range(0, len(sound), 1024):
            part = np.ascontiguousarray(sound[None, start : start + 1024], dtype=np.float32)
            heard = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = SAMPLE_RATE_HZ, start
            heard.time_base = Fraction(1, SAMPLE_RATE_HZ)
            container.mux(audio.encode(heard))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


Read = Callable[[str], Iterator[Any]]


def _reader(extract: ExtractConfig) -> tuple[Read, tuple[Modality, ...]]:
    """Return what yields the encoded clips of a video, and their modalities."""
    plan = plan_extraction(extract)
    encoders = make_encoders(plan.config)

    def read(path: str) -> Iterator[Any]:
        source = Source(path=path, id=path)
        return (item for _, item in extract_files([(0, source)], plan, encoders))

    return read, plan.modalities


def _dataset(
    folder: Path, lessons: Mapping[str, Sequence[Lesson]], extract: ExtractConfig
) -> Dataset:
    """Cut lessons to clips with labels."""
    read, modalities = _reader(extract)
    rows: dict[str, list[Row]] = {"train": [], "val": []}
    for split, made in rows.items():
        for lesson in lessons[split]:
            for clip in read(lesson.path):
                if isinstance(clip, EncodedClip):
                    tokens = {
                        one.name: np.frombuffer(clip.tokens[one.name] or b"", one.dtype)
                        for one in modalities
                    }
                    shaped = {one.name: tokens[one.name].reshape(-1, one.dim) for one in modalities}
                    labels = lesson.labels(clip.start_seconds, clip.end_seconds)
                    made.append(Row(id=f"{split}-{len(made)}", labels=labels, tokens=shaped))
    write_dataset(
        str(folder),
        rows,
        vocabulary=Vocabulary(tuple(lessons["train"][0].truth)),
        modalities=modalities,
        provenance={"made_by": MADE_BY, **{k: getattr(extract, k) for k in ("fps", "dtype")}},
    )
    return open_dataset(str(folder))


def _train(dataset: Dataset, folder: Path, epochs: int, seed: int) -> Bundle:
    """Train in this process, on one core; returns the best epoch."""
    torch.set_num_threads(1)
    folder.mkdir()
    config = from_dict(
        {
            "data": {"path": dataset.path},
            "batch": {"size": 32},
            "model": {"width": 64, "depth": 2, "fusion_depth": 1, "embedding_dim": 64},
            "optimizer": {"lr": 0.003},
            "train": {"epochs": epochs, "seed": seed, "device": "cpu"},
        }
    )

    def keep(event: EpochEnded, checkpoint: Path | None) -> None:
        if event.is_best and checkpoint is not None:
            save_bundle(checkpoint, folder / "bundle")

    loop.fit(
        config,
        dataset.manifest,
        _feeds(dataset, config),
        device=torch.device("cpu"),
        emit=lambda event: None,
        report=keep,
    )
    return load_bundle(folder / "bundle")


def _feeds(dataset: Dataset, config: Config) -> Feeds:
    def feed(split: str) -> Feed:
        shards = dataset.split(split)
        return Feed(
            lambda wanted: (read_shard(dataset, shards[at]) for at in wanted),
            dataset.manifest,
            split,
            config=config.batch,
            seed=config.train.seed,
            keep=True,
            share=(0, 1),
        )

    labels = [row for s in dataset.split("train") for row in read_shard(dataset, s)["labels"]]
    encoded = dataset.manifest.vocabulary.encode([row.as_py() for row in labels])
    return Feeds(
        train=feed("train"),
        val=feed("val"),
        class_counts=label_counts(encoded),
        means=token_means(dataset, "train"),
    )


def _timeline(bundle: Bundle, path: str, read: Read, extract: ExtractConfig) -> Timeline:
    scored, failures = score_windows(bundle, read(path))
    assert scored is not None, failures
    window, stride = extract.window_seconds or 0.0, extract.stride_seconds or 0.0
    return Timeline(
        path=path,
        labels=bundle.vocabulary.names,
        window_seconds=window,
        stride_seconds=stride,
        chosen="as asked",
        **scored._asdict(),
        calibration=bundle.calibration,
        thresholds=bundle.thresholds,
    )
