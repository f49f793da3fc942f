"""Media files to encoded clips: decode, encode, and record failures.

`on_ray.py` runs these functions on a cluster. Encoders without weights work in the process that
decodes the file; those with weights may be in another process, with a GPU. FFmpeg may crash on a
damaged file, so files can be decoded in a child process (`extract_files_apart`).
"""

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from jaxtyping import Float32

from raymc.config import AUTO, NONE, ExtractConfig
from raymc.data.shards import Modality
from raymc.data.shards.tokens import encode_tokens
from raymc.errors import ConfigError, DataError, ResourceError
from raymc.features.changes import repeated_frames
from raymc.features.clips import Clip, ClipRequest, Failure
from raymc.features.encoders import (
    audio_encoder,
    packaged,
    reader_of_screen,
    text_encoder,
    transcriber,
    visual_encoder,
)
from raymc.features.media import read_clips
from raymc.features.sources import Digests, Source
from raymc.features.transcripts import (
    Transcript,
    read_sidecar,
    sentences_by_interval,
    texts_by_interval,
)
from raymc.runtime.child_process import Child, ChildError, limit_cpu
from raymc.runtime.threads import compute_on_one_thread, computing_threads, is_out_of_memory

# Media that are decoded without Ray, which would take longer to start than it saves.
FILES_HERE, BYTES_HERE = 16, 64 << 20
_ANY_RATE_HZ = 16_000  # for text alone: decoding sound gives a clip's length
_FRAMES, _SOUND, SIDECAR = "frames", "sound", "sidecar"


@dataclass(frozen=True)
class Stream:
    """What a modality is made of.

    Attributes:
        source: `frames`, `sound`, `sidecar`, or the name of what reads the screen or writes down
            what is said.
        encoder: The name of the encoder.
    """

    source: str
    encoder: str


def streams_of(config: ExtractConfig) -> dict[str, Stream]:
    """Return the modalities that the settings ask for, by name."""
    heard = "speech" if config.transcript == packaged.MOONSHINE else "text"
    streams = {
        "visual": Stream(_FRAMES, config.visual),
        "audio": Stream(_SOUND, config.audio),
        heard: Stream(config.transcript, config.text),
        "screen": Stream(config.screen, config.text),
    }
    return {name: one for name, one in streams.items() if NONE not in (one.source, one.encoder)}


def resolved(config: ExtractConfig) -> ExtractConfig:
    """Return the settings with the best encoders that are installed in place of `auto`.

    If words on the screen or of speech are wanted and no encoder is named for them, it is chosen,
    too.
    """
    visual, text, transcript = config.visual, config.text, config.transcript
    if text == NONE and (config.screen != NONE or transcript == packaged.MOONSHINE):
        text, transcript = AUTO, NONE if transcript == SIDECAR else transcript
    visual = _best("visual") if visual == AUTO else visual
    text = _best("text") if text == AUTO else text
    return replace(config, visual=visual, text=text, transcript=transcript)


# What `auto` stands for: the first that is installed.
BEST = {
    "visual": (packaged.EFFICIENTNET_GRID, "patches"),
    "text": (packaged.MINILM, "words"),
}


def _best(kind: str) -> str:
    return next(name for name in BEST[kind] if packaged.is_installed(name))


@dataclass(frozen=True)
class Encoders:
    """The encoders of one stage by modality, and the readers and transcribers before them."""

    by_modality: Mapping[str, Any]
    writers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExtractPlan:
    """What every stage of a job needs to know; small, as it is sent to all processes.

    `request` is what is decoded of each clip; `heavy` are the modalities whose encoders have
    weights, and so run in a stage of their own, `weights` the digests of these by modality, and
    of the transcriber and the reader of the screen.
    """

    config: ExtractConfig
    modalities: tuple[Modality, ...]
    request: ClipRequest
    heavy: frozenset[str]
    weights: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def light(self) -> frozenset[str]:
        """The modalities that are encoded in the process that decodes their file."""
        return frozenset(modality.name for modality in self.modalities) - self.heavy

    @property
    def models(self) -> dict[str, str]:
        """The names of the models by the names under which `weights` has their digests."""
        streams = streams_of(self.config)
        writers = {_WRITERS[name]: one.source for name, one in streams.items() if name in _WRITERS}
        return writers | {name: one.encoder for name, one in streams.items()}

    @property
    def reads_sidecars(self) -> bool:
        """Whether texts are read from files beside the media."""
        return any(one.source == SIDECAR for one in streams_of(self.config).values())


@dataclass(frozen=True, kw_only=True)
class EncodedClip:
    """A clip on its way to a row: encoded modalities, and inputs of encoders still to run.

    Attributes:
        tokens: The stored bytes of the encoded modalities; None if a modality is missing.
        waiting: Inputs of the other encoders: frames, a waveform, or texts.
        failures: What went wrong so far.
    """

    id: str
    start_seconds: float
    end_seconds: float
    tokens: Mapping[str, bytes | None]
    waiting: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()


END = None  # follows a file's last clip
STUCK_SECONDS = 300.0  # of CPU time between two packets of a file, by which FFmpeg never ends
Item = EncodedClip | Failure | None
Numbered = Sequence[tuple[int, Source]]


def make_encoders(
    config: ExtractConfig, names: Collection[str] | None = None, *, device: str = "cpu"
) -> Encoders:
    """Load the encoders that the settings name for some modalities, or all; see `encoders`."""
    given: dict[str, Any] = {"weights": config.weights or None, "device": device}
    found: dict[str, Any] = {}
    writers: dict[str, Any] = {}
    for name, stream in streams_of(resolved(config)).items():
        if names is not None and name not in names:
            continue
        if stream.source == _FRAMES:
            found[name] = visual_encoder(stream.encoder, fps=config.fps, **given)
        elif stream.source == _SOUND:
            found[name] = audio_encoder(stream.encoder, rate_hz=config.audio_rate_hz, **given)
        else:
            rate_hz = 1 / config.text_interval_seconds
            found[name] = text_encoder(stream.encoder, rate_hz=rate_hz, **given)
            if name == "screen":
                writers[name] = reader_of_screen(stream.source, fps=config.fps)
            elif stream.source != SIDECAR:
                writers[name] = transcriber(stream.source, **given)
    return Encoders(found, writers)


def plan_extraction(config: ExtractConfig) -> ExtractPlan:
    """Plan the stages for the settings, and check that everything they need is available.

    Raises:
        ConfigError: No modality is named, an encoder is unknown, or two of them want sound at
            different rates.
        ResourceError: Weights or a package are missing; with what to put where.
    """
    config = resolved(config)
    encoders = make_encoders(config)
    if not encoders.by_modality:
        raise ConfigError(
            "extract.visual, extract.audio and extract.text are all none; name an encoder"
        )
    heavy = {name for name, encoder in encoders.by_modality.items() if encoder.has_weights}
    return ExtractPlan(
        config,
        modalities=_modalities(encoders, config),
        request=_clip_request(encoders, config),
        heavy=frozenset(heavy.union(encoders.writers)),
        weights=_weights(encoders),
    )


def extract_source(
    source: Source,
    plan: ExtractPlan,
    encoders: Encoders,
    *,
    digests: Digests | None = None,
    cpu_seconds: float = 0.0,
) -> Iterator[EncodedClip | Failure]:
    """Decode a file clip by clip, and encode what needs no weights, with those of `plan.light`.

    The file never causes an error: what can't be read becomes a `Failure`, of a clip or alone. A
    file whose digest differs from its source's is not decoded at all. `digests` are shared by the
    parts of a file, so that its digest is computed once. This process ends if FFmpeg takes more
    than `cpu_seconds` of CPU time from one packet to the next; 0: it may take any.
    """
    try:
        (digests or Digests()).check(source)
    except (DataError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        yield Failure(path=source.path, id=source.id, stage="open", error=reason)
        return
    transcript, failures = _transcript(source, plan)
    for clip in _read_clips(source, plan.request, cpu_seconds):
        if isinstance(clip, Failure):
            yield clip
            continue
        if transcript is not None and not _is_placed(transcript, clip, source):
            error = f"{transcript.path} has no times to cut it by; give a .vtt or .srt"
            failures.append(_text_failure(source, error))
            transcript = None
        extract = EncodedClip(
            id=clip.id,
            start_seconds=clip.start_seconds,
            end_seconds=clip.end_seconds,
            tokens={},
            waiting=_inputs(clip, transcript, plan),
            failures=(*failures, *clip.failures),
        )
        failures = []  # report those of the text only once
        yield encode(extract, source.path, plan, encoders)


def _read_clips(
    source: Source, request: ClipRequest, cpu_seconds: float
) -> Iterator[Clip | Failure]:
    """Yield the clips of a file, with a limit of CPU time only while FFmpeg is at work."""
    if not cpu_seconds:
        yield from read_clips(source, request)
        return
    limit = partial(limit_cpu, cpu_seconds)
    clips = read_clips(source, request, on_packet=limit)
    try:
        limit()
        for clip in clips:
            limit_cpu(0)
            yield clip
            limit()
    finally:
        limit_cpu(0)


def encode(
    extract: EncodedClip,
    path: str,
    plan: ExtractPlan,
    encoders: Encoders,
    *,
    threads: Executor | None = None,
) -> EncodedClip:
    """Encode a clip with a stage's encoders, alone, so that its tokens depend on nothing else.

    On a CPU each modality is encoded by one thread, as in Ray's actors: several give other last
    bits, and on a busy machine they wait for each other. With `threads`, several modalities are
    encoded at a time. One that can't be encoded becomes missing, and a failure says why.
    """
    waiting = dict(extract.waiting)
    given = {
        modality: waiting.pop(modality.name)
        for modality in plan.modalities
        if modality.name in encoders.by_modality and modality.name in waiting
    }
    make = partial(_stored, clip=extract, path=path, plan=plan, encoders=encoders)
    with computing_threads(1):
        made = list((threads.map if threads else map)(make, given, given.values()))
    failures = tuple(one for one in made if isinstance(one, Failure))
    stored = {
        modality.name: None if isinstance(one, Failure) else one
        for modality, one in zip(given, made)
    }
    return replace(
        extract,
        tokens={**extract.tokens, **stored},
        waiting=waiting,
        failures=(*extract.failures, *failures),
    )


def _stored(
    modality: Modality,
    seen: Any,
    *,
    clip: EncodedClip,
    path: str,
    plan: ExtractPlan,
    encoders: Encoders,
) -> bytes | Failure | None:
    """Return the stored bytes of a modality of a clip, None if it has no tokens, or why not."""
    compute_on_one_thread()
    seconds = clip.end_seconds - clip.start_seconds
    try:
        return encode_tokens(_tokens(modality.name, seen, seconds, plan, encoders), modality)
    except (DataError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        return Failure(path=path, id=clip.id, stage=f"encode {modality.name}", error=reason)


def extract_files(
    sources: Numbered, plan: ExtractPlan, encoders: Encoders, *, cpu_seconds: float = 0.0
) -> Iterator[tuple[int, Item]]:
    """Yield the clips and failures of files, with the files' numbers; None ends each file."""
    digests = Digests()
    for number, source in sources:
        for item in extract_source(
            source, plan, encoders, digests=digests, cpu_seconds=cpu_seconds
        ):
            yield number, item
        yield number, END


def extract_files_apart(
    sources: Numbered, plan: ExtractPlan, *, cpu_seconds: float = STUCK_SECONDS
) -> Iterator[tuple[int, Item]]:
    """Yield the same as `extract_files`, from a child process; see `Decoder`."""
    with closing(Decoder(plan, cpu_seconds=cpu_seconds)) as decoder:
        for number, source in sources:
            for item in decoder.clips(source):
                yield number, item
            yield number, END


class Decoder:
    """Decodes files one after another in a child process, which begins with the first.

    A file that ends the child, or on which FFmpeg never ends, becomes a failure; another child
    continues with the next file.
    """

    def __init__(self, plan: ExtractPlan, *, cpu_seconds: float = STUCK_SECONDS) -> None:
        self._plan, self._cpu_seconds = plan, cpu_seconds
        self._child: Child | None = None

    def clips(self, source: Source) -> Iterator[EncodedClip | Failure]:
        """Yield the clips and failures of a file, as `extract_source` does.

        Raises:
            ResourceError: The child ends before it has begun.
        """
        is_done = False
        try:
            child = self._given(source)
            while (found := child.receive()) is not END:
                if isinstance(found, Exception):
                    raise found
                yield found
            is_done = True
        except ChildError as error:
            text = f"its decoder {error}"
            yield Failure(path=source.path, id=source.id, stage="open", error=text)
        finally:
            if not is_done:  # whatever the child still sends is of this file
                self.close()

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _given(self, source: Source) -> Child:
        """Return the child, which has been given a file."""
        try:
            child = self._begun()
            child.connection.send(source)
        except OSError:  # it ended while it had nothing to do
            self.close()
            child = self._begun()
            child.connection.send(source)
        return child

    def _begun(self) -> Child:
        if self._child is None:
            self._child = Child(_send, self._plan, self._cpu_seconds)
            try:
                self._child.receive()
            except ChildError as error:
                raise ResourceError(
                    f"the process that decodes files {error} before it started; see its output"
                ) from error
        return self._child


def are_few(sources: Sequence[Source], plan: ExtractPlan) -> bool:
    """Whether media are decoded in this process: no cluster is named, and nothing asks for more."""
    if os.environ.get("RAY_ADDRESS") or plan.config.device == "gpu" or len(sources) > FILES_HERE:
        return False
    return len(sources) == 1 or sum(_bytes_of(source.path) for source in sources) <= BYTES_HERE


def _bytes_of(path: str) -> int:
    """Return the size of a local file; 0 of one elsewhere."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0


def extract_here(sources: Numbered, plan: ExtractPlan) -> Iterator[tuple[int, Item]]:
    """Yield the same as `extract_files`, decoded in a child process and encoded in this one.

    On a CPU each encoder has a thread, as one alone would leave all cores but one idle.
    """
    from raymc.runtime.device import uses_gpu  # torch isn't for the child

    device = "cuda" if uses_gpu(plan.config.device) else "cpu"
    paths = {number: source.path for number, source in sources}
    threads = ThreadPoolExecutor(max(1, len(plan.heavy)))
    try:
        # Weights are loaded while the child starts.
        encoders = threads.submit(make_encoders, plan.config, plan.heavy, device=device)
        apart = threads if device == "cpu" else None
        for number, item in extract_files_apart(sources, plan):
            if isinstance(item, EncodedClip):
                item = encode(item, paths[number], plan, encoders.result(), threads=apart)
            yield number, item
    finally:
        threads.shutdown(wait=False)  # an interrupted command doesn't wait for a long clip


def _send(connection: Connection, plan: ExtractPlan, cpu_seconds: float) -> None:
    """In the child: send that it has begun, then the items of each file that it receives."""
    encoders, digests = make_encoders(plan.config, plan.light), Digests()
    connection.send("begun")
    while True:
        try:
            source = connection.recv()
        except EOFError:  # there are no more
            return
        try:
            for item in extract_source(
                source, plan, encoders, digests=digests, cpu_seconds=cpu_seconds
            ):
                connection.send(item)
            connection.send(END)
        except Exception as error:
            connection.send(error)


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


def _weights(encoders: Encoders) -> dict[str, str]:
    of_writers = {_WRITERS[name]: writer for name, writer in encoders.writers.items()}
    used = {**encoders.by_modality, **of_writers}
    return {name: one.digest() for name, one in used.items() if one.has_weights}


# The names under which the weights of transcribers and of readers of the screen are noted.
_WRITERS = {"text": "transcript", "speech": "transcript", "screen": "reader"}


def _clip_request(encoders: Encoders, config: ExtractConfig) -> ClipRequest:
    listeners = [encoders.by_modality.get("audio")]
    listeners += [writer for name, writer in encoders.writers.items() if name != "screen"]
    rates = {one.name: one.sample_rate_hz for one in listeners if one is not None}
    if len(set(rates.values())) > 1:
        found = " and ".join(f"{name} {rate} Hz" for name, rate in rates.items())
        raise ConfigError(
            f"extract.audio and extract.transcript want different sample rates: {found}"
        )
    visual, screen = encoders.by_modality.get("visual"), encoders.writers.get("screen")
    return ClipRequest(
        fps=config.fps,
        picture=visual.picture if visual else None,
        screen=screen.picture if screen else None,
        sample_rate_hz=next(iter(rates.values()), None if visual or screen else _ANY_RATE_HZ),
        window_seconds=config.window_seconds,
        stride_seconds=config.stride_seconds,
    )


def _inputs(clip: Clip, cues: Transcript | None, plan: ExtractPlan) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name, stream in streams_of(plan.config).items():
        if stream.source == SIDECAR:
            rate_hz = 1 / plan.config.text_interval_seconds
            begin, end = clip.start_seconds, clip.end_seconds
            inputs[name] = texts_by_interval(cues, begin, end, rate_hz) if cues else None
        elif stream.source == _FRAMES:
            inputs[name] = clip.frames
        else:
            inputs[name] = clip.screen if name == "screen" else clip.waveform
    return inputs


def _tokens(
    name: str, seen: Any, seconds: float, plan: ExtractPlan, encoders: Encoders
) -> Float32[np.ndarray, "T D"] | None:
    if seen is None or len(seen) == 0:
        return None
    encoder, writer = encoders.by_modality[name], encoders.writers.get(name)
    if name == "screen" and writer is not None:
        from raymc.features.encoders.screen import lines_by_interval

        seen = lines_by_interval(writer.read(seen), seconds, encoder.rate_hz)
    elif name == "speech" and writer is not None:
        seen = sentences_by_interval(writer.transcribe(seen), seconds, encoder.rate_hz)
    elif writer is not None:
        seen = texts_by_interval(writer.transcribe(seen), 0.0, seconds, encoder.rate_hz)
    elif name == "visual" and plan.config.frames == "changed":
        read, places = np.unique(repeated_frames(seen), return_inverse=True)
        return encoder.encode(seen[read])[places]
    return encoder.encode(seen)


def _transcript(source: Source, plan: ExtractPlan) -> tuple[Transcript | None, list[Failure]]:
    """Return the text beside a file, if there is one, and its failures."""
    if not plan.reads_sidecars:
        return None, []
    try:
        found = read_sidecar(source.path, language=plan.config.language)
    except DataError as error:
        return None, [_text_failure(source, str(error))]
    if found is not None and found.broken:
        error = f"{found.path}: {found.broken} cues have a timing that can't be parsed"
        return found, [_text_failure(source, error)]
    return found, []


def _is_placed(transcript: Transcript, clip: Clip, source: Source) -> bool:
    """Return whether it is known which part of the text is spoken in a clip."""
    return clip.id == source.id or all(math.isfinite(cue.end_seconds) for cue in transcript)


def _text_failure(source: Source, error: str) -> Failure:
    return Failure(path=source.path, id=source.id, stage="text", error=error)
