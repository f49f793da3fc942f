"""One media file to the rows of a dataset: decode, encode, and say what went wrong. Pure.

May import the other rooms of features and the shards; no Ray, so that the same functions run in
a test, in one process and in the stages of `on_ray.py`. Encoders without weights work
where the file is decoded; those with weights may live elsewhere, on a GPU.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from raymc.config import NONE, ExtractConfig
from raymc.data.shards import Modality
from raymc.data.shards.tokens import encode_tokens
from raymc.errors import ConfigError, DataError
from raymc.features.clips import Clip, ClipRequest, Failure
from raymc.features.encoders import audio_encoder, text_encoder, transcriber, visual_encoder
from raymc.features.media import read_clips
from raymc.features.sources import Digests, Source
from raymc.features.transcripts import Transcript, read_sidecar, texts_by_interval

_ANY_RATE_HZ = 16_000  # text alone: something has to be decoded, to know how long a clip is
MODALITIES = ("visual", "audio", "text")


@dataclass(frozen=True)
class Encoders:
    """The encoders of one stage by modality, and what writes the transcript if no file does."""

    by_modality: Mapping[str, Any]
    transcriber: Any = None


@dataclass(frozen=True)
class ExtractPlan:
    """What every stage of a job knows; small, so that it may travel.

    Attributes:
        config: The settings.
        modalities: The columns of the dataset.
        request: What is decoded of each clip.
        heavy: The modalities whose encoders have weights, and so a stage of their own.
    """

    config: ExtractConfig
    modalities: tuple[Modality, ...]
    request: ClipRequest
    heavy: frozenset[str]

    @property
    def light(self) -> frozenset[str]:
        """The modalities that are encoded where their file is decoded."""
        return frozenset(modality.name for modality in self.modalities) - self.heavy

    @property
    def transcribes(self) -> bool:
        """Whether the transcript comes from the sound rather than from a file."""
        return _transcribes(self.config)


@dataclass(frozen=True, kw_only=True)
class Extract:
    """A clip on its way to a row: what is encoded already, and what waits for an encoder.

    Attributes:
        id: The clip's id.
        start_seconds: Where it begins in the file.
        end_seconds: Where it ends.
        tokens: The stored bytes of the modalities that are encoded; None where one is missing.
        waiting: What other encoders are still to see: frames, a wave form, or texts.
        failures: What went wrong so far.
    """

    id: str
    start_seconds: float
    end_seconds: float
    tokens: Mapping[str, bytes | None]
    waiting: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()


def make_encoders(
    config: ExtractConfig, names: Collection[str] = MODALITIES, *, device: str = "cpu"
) -> Encoders:
    """Load the encoders of some modalities, as far as the settings name one.

    Raises:
        ConfigError: no encoder has that name.
        ResourceError: weights or a package are missing; with what to put where.
    """
    given: dict[str, Any] = {"weights": config.weights or None, "device": device}
    found: dict[str, Any] = {}
    if "visual" in names and config.visual != NONE:
        found["visual"] = visual_encoder(config.visual, fps=config.fps, **given)
    if "audio" in names and config.audio != NONE:
        found["audio"] = audio_encoder(config.audio, **given)
    if "text" in names and config.text != NONE:
        rate_hz = 1 / config.text_interval_seconds
        found["text"] = text_encoder(config.text, rate_hz=rate_hz, **given)
    listens = "text" in found and _transcribes(config)
    return Encoders(found, transcriber(config.transcript, **given) if listens else None)


def plan_extraction(config: ExtractConfig) -> ExtractPlan:
    """Find out what the settings ask of each stage, and whether all of it is there.

    Raises:
        ConfigError: no modality is asked for, an encoder is unknown, or two of them want sound
            at different rates.
        ResourceError: weights or a package are missing; with what to put where.
    """
    encoders = make_encoders(config)
    if not encoders.by_modality:
        raise ConfigError(
            "extract.visual, extract.audio and extract.text are all none: name an encoder"
        )
    heavy = {name for name, encoder in encoders.by_modality.items() if encoder.has_weights}
    return ExtractPlan(
        config,
        modalities=_modalities(encoders, config),
        request=_clip_request(encoders, config),
        heavy=frozenset(heavy | ({"text"} if encoders.transcriber else set())),
    )


def extract_source(
    source: Source, plan: ExtractPlan, encoders: Encoders, *, digests: Digests | None = None
) -> Iterator[Extract | Failure]:
    """Decode a file clip by clip, and encode what needs no weights.

    Never raises because of the file: what can't be read is a `Failure`, of a clip or alone. A
    file that hasn't the digest its source says is not decoded at all.

    Args:
        source: The file, or a part of it.
        plan: What is wanted.
        encoders: Those of `plan.light`.
        digests: Shared by the parts of a file, so that its digest is computed once.
    """
    try:
        (digests or Digests()).check(source)
    except (DataError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        yield Failure(path=source.path, id=source.id, stage="open", error=reason)
        return
    transcript, failures = _transcript(source, plan)
    for clip in read_clips(source, plan.request):
        if isinstance(clip, Failure):
            yield clip
            continue
        if transcript is not None and not _is_placed(transcript, clip, source):
            error = f"{transcript.path} has no times to cut it by; give a .vtt or .srt"
            failures.append(_text_failure(source, error))
            transcript = None
        extract = Extract(
            id=clip.id,
            start_seconds=clip.start_seconds,
            end_seconds=clip.end_seconds,
            tokens={},
            waiting=_inputs(clip, transcript, plan),
            failures=(*failures, *clip.failures),
        )
        failures = []  # those of the text are told once
        yield encode(extract, source.path, plan, encoders)


def encode(extract: Extract, path: str, plan: ExtractPlan, encoders: Encoders) -> Extract:
    """Encode a clip with a stage's encoders, by itself, so that its neighbours don't matter.

    A modality that can't be encoded is missing, and a failure says why.
    """
    tokens, failures = dict(extract.tokens), list(extract.failures)
    for modality in plan.modalities:
        name = modality.name
        if name not in encoders.by_modality:
            continue
        tokens[name] = None
        try:
            tokens[name] = encode_tokens(_tokens(name, extract, encoders), modality)
        except torch.OutOfMemoryError:
            raise
        except (DataError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            failures.append(Failure(path=path, id=extract.id, stage=f"encode {name}", error=reason))
    waiting = {name: x for name, x in extract.waiting.items() if name not in tokens}
    return replace(extract, tokens=tokens, waiting=waiting, failures=tuple(failures))


def _transcribes(config: ExtractConfig) -> bool:
    return config.text != NONE and config.transcript != "sidecar"


def _modalities(encoders: Encoders, config: ExtractConfig) -> tuple[Modality, ...]:
    return tuple(
        Modality(
            name,
            dim=encoder.dim,
            dtype=config.dtype,
            rate_hz=encoder.rate_hz,
            encoder=f"{encoder.name} ({encoder.license})",
        )
        for name, encoder in encoders.by_modality.items()
    )


def _clip_request(encoders: Encoders, config: ExtractConfig) -> ClipRequest:
    """Return what is to be decoded so that the encoders see what they want.

    Raises:
        ConfigError: the audio encoder and the transcriber want sound at different rates.
    """
    listeners = {config.audio: encoders.by_modality.get("audio")}
    listeners[config.transcript] = encoders.transcriber
    rates = {name: one.sample_rate_hz for name, one in listeners.items() if one is not None}
    if len(set(rates.values())) > 1:
        found = " and ".join(f"{name} {rate} Hz" for name, rate in rates.items())
        raise ConfigError(f"extract.audio and extract.transcript want other sample rates: {found}")
    visual = encoders.by_modality.get("visual")
    return ClipRequest(
        fps=config.fps,
        picture=visual.picture if visual else None,
        sample_rate_hz=next(iter(rates.values()), None if visual else _ANY_RATE_HZ),
        window_seconds=config.window_seconds,
        stride_seconds=config.stride_seconds,
    )


def _inputs(clip: Clip, cues: Transcript | None, plan: ExtractPlan) -> dict[str, Any]:
    """Return what each encoder is to see of a clip."""
    inputs: dict[str, Any] = {"visual": clip.frames, "audio": clip.waveform, "text": None}
    if plan.transcribes:
        inputs["text"] = clip.waveform
    elif cues:
        rate_hz = 1 / plan.config.text_interval_seconds
        inputs["text"] = texts_by_interval(cues, clip.start_seconds, clip.end_seconds, rate_hz)
    return {modality.name: inputs[modality.name] for modality in plan.modalities}


def _tokens(name: str, extract: Extract, encoders: Encoders) -> Float32[np.ndarray, "T D"] | None:
    seen, encoder = extract.waiting[name], encoders.by_modality[name]
    if seen is None or len(seen) == 0:
        return None
    if name == "text" and encoders.transcriber is not None:
        cues = encoders.transcriber.transcribe(seen)
        seconds = extract.end_seconds - extract.start_seconds
        seen = texts_by_interval(cues, 0.0, seconds, encoder.rate_hz)
    return encoder.encode(seen)


def _transcript(source: Source, plan: ExtractPlan) -> tuple[Transcript | None, list[Failure]]:
    """Return the text beside a file, if there is one, and what is wrong with it."""
    if plan.config.text == NONE or plan.transcribes:
        return None, []
    try:
        found = read_sidecar(source.path)
    except DataError as error:
        return None, [_text_failure(source, str(error))]
    if found is not None and found.broken:
        error = f"{found.path}: {found.broken} cues have a timing that can't be understood"
        return found, [_text_failure(source, error)]
    return found, []


def _is_placed(transcript: Transcript, clip: Clip, source: Source) -> bool:
    """Say whether it is known what of the text is spoken in a clip."""
    return clip.id == source.id or all(math.isfinite(cue.end_seconds) for cue in transcript)


def _text_failure(source: Source, error: str) -> Failure:
    return Failure(path=source.path, id=source.id, stage="text", error=error)
