"""Speech models of torchaudio: sound to tokens, or to timed words.

`load_bundle` loads a model of torchaudio.pipelines: wav2vec 2.0, HuBERT or WavLM. `SpeechEncoder`
averages its 50 frames a second to fewer tokens; `Transcriber` decodes the characters of a
recognition model, without a language model: the words are spelt as they are heard, which is good
enough to tell what a clip is about.

Axes: S samples, F frames of the model, T tokens, D dim, C characters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor
from torch.nn.functional import layer_norm

from raymc.errors import ConfigError, DataError, ResourceError
from raymc.features.encoders.weights import (
    check_reachable,
    checked_device,
    computed,
    digest_of_files,
    one_line,
)
from raymc.features.torchaudio_compat import load_torchaudio
from raymc.features.transcripts import Cue

SPACE = "|"
_HOST = "https://download.pytorch.org/torchaudio/models/"
# Attention grows with the square of the length, and the models were trained on sentences.
_PIECE_FRAMES = 1000
_CONTEXT_FRAMES = 50


@runtime_checkable
class FramesOfSound(Protocol):
    """What a `SpeechEncoder` needs of a model."""

    @property
    def dim(self) -> int:
        """Values a frame."""
        ...

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """Its weights."""
        ...

    def features(self, waveform: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "F D"]:
        """The frames of a wave form; none of none."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechModel:
    """A bundle's model with its weights.

    Attributes:
        name: The bundle's name in torchaudio.pipelines.
        labels: The characters of its logits, the blank first; none where it isn't for ASR.
        dim: Values a frame of its features.
        stride: Samples from one frame to the next.
        reach: Samples that the first frame sees of the wave form.
        files: Its weights.
    """

    name: str
    license: str
    sample_rate_hz: int
    labels: tuple[str, ...]
    dim: int
    stride: int
    reach: int
    model: torch.nn.Module = field(repr=False)
    normalises: bool
    device: torch.device
    files: tuple[Path, ...] = field(repr=False)

    def features(self, waveform: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "F D"]:
        """The last layer's output, after the model's final normalisation where it has one."""
        model: Any = self.model

        def run(samples: Float32[Tensor, "1 _"]) -> Tensor:
            return model.encoder(model.feature_extractor(samples, None)[0], None)

        return self._run(waveform, run, self.dim)

    def logits(self, waveform: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "F C"]:
        """Scores of the characters."""
        return self._run(waveform, lambda samples: self.model(samples)[0], len(self.labels))

    @torch.inference_mode()
    def _run(
        self,
        waveform: Float32[np.ndarray, " S"],
        run: Callable[[Float32[Tensor, "1 _"]], Tensor],
        dim: int,
    ) -> Float32[np.ndarray, "F _"]:
        """Run the model; on a long sound in pieces."""
        if self.normalises and len(waveform):
            samples = torch.from_numpy(np.ascontiguousarray(waveform)).to(self.device)
            waveform = layer_norm(samples, samples.shape).cpu().numpy()

        def piece(samples: Float32[np.ndarray, " _"]) -> Float32[np.ndarray, "_ _"]:
            return computed(run, torch.from_numpy(samples).to(self.device)[None], self.device)[0]

        return in_pieces(waveform, piece, dim=dim, stride=self.stride, reach=self.reach)


def in_pieces(
    waveform: Float32[np.ndarray, " S"],
    run: Callable[[Float32[np.ndarray, " _"]], Float32[np.ndarray, "_ D"]],
    *,
    dim: int,
    stride: int,
    reach: int,
) -> Float32[np.ndarray, "F D"]:
    """Run a model on a sound; on a long one in pieces, each with context on either side.

    Cuts are on the grid of frames, so the number of frames and their times don't change. A sound
    that is shorter than the `reach` of a frame is completed with silence.
    """
    if len(waveform) == 0:
        return np.zeros((0, dim), np.float32)
    samples = np.pad(waveform, (0, max(reach - len(waveform), 0)))
    frames = (len(samples) - reach) // stride + 1
    if frames <= _PIECE_FRAMES + 2 * _CONTEXT_FRAMES:
        return run(samples)
    pieces = []
    for first in range(0, frames, _PIECE_FRAMES):
        last = min(first + _PIECE_FRAMES, frames)
        start, end = max(first - _CONTEXT_FRAMES, 0), min(last + _CONTEXT_FRAMES, frames)
        seen = samples[start * stride : (end - 1) * stride + reach]
        pieces.append(run(seen)[first - start : last - start])
    return np.concatenate(pieces)


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechEncoder:
    """A speech model as an encoder of sound; a token is the mean of its last layer over its time.

    `rate_hz` is at most the model's frames per second; others raise `ConfigError`.
    """

    name: str
    dim: int
    rate_hz: float
    license: str
    sample_rate_hz: int
    model: FramesOfSound = field(repr=False)
    has_weights: bool = True

    def digest(self) -> str:
        """Return the SHA-256 of the model's files, in hex."""
        return digest_of_files(self.model.files)

    def __post_init__(self) -> None:
        frames_hz = self.sample_rate_hz / self.model.stride
        if not 0 < self.rate_hz <= frames_hz:
            raise ConfigError(
                f"{self.name} can't make {self.rate_hz:g} tokens per second; expected above 0, at "
                f"most {frames_hz:g}"
            )

    def encode(self, waveform: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "T D"]:
        """ceil(seconds · rate_hz) tokens; token t is of the seconds [t, t + 1) / rate_hz.

        A frame counts where its middle lies. A token in which none does, such as the last of a
        sound that ends within it, is the frame nearest to it.
        """
        per_token = self.sample_rate_hz / self.rate_hz
        tokens = math.ceil(len(waveform) / per_token - 1e-9)
        features = self.model.features(waveform)
        middles = (np.arange(len(features)) + 0.5) * self.model.stride
        return _mean_by_token(features, (middles / per_token).astype(np.int64), tokens)


def speech_encoder(
    name: str, *, rate_hz: float = 10.0, weights: str | None = None, device: str = "cpu"
) -> SpeechEncoder:
    """Load a bundle as an encoder; see `load_bundle`."""
    model = load_bundle(name, weights=weights, device=device)
    return SpeechEncoder(
        name=model.name,
        dim=model.dim,
        rate_hz=rate_hz,
        license=model.license,
        sample_rate_hz=model.sample_rate_hz,
        model=model,
    )


def _mean_by_token(
    features: Float32[np.ndarray, "F D"], token_of: Int[np.ndarray, " F"], tokens: int
) -> Float32[np.ndarray, "T D"]:
    """The mean of each token's frames; `token_of` doesn't fall."""
    bounds = np.searchsorted(token_of, np.arange(tokens + 1))
    means = np.empty((tokens, features.shape[1]), np.float32)
    for token, (first, end) in enumerate(pairwise(bounds.tolist())):
        nearest = min(first, len(features) - 1)
        frames = features[first:end] if first < end else features[nearest : nearest + 1]
        means[token] = frames.mean(axis=0)
    return means


@dataclass(frozen=True, kw_only=True, eq=False)
class Transcriber:
    """Writes down what is said, word by word."""

    name: str
    license: str
    sample_rate_hz: int
    model: SpeechModel = field(repr=False)
    has_weights: bool = True

    def digest(self) -> str:
        """Return the SHA-256 of the model's file, in hex."""
        return digest_of_files(self.model.files)

    def transcribe(self, waveform: Float32[np.ndarray, " S"]) -> list[Cue]:
        """The words of a wave form, one cue each, in lower case; times are from its start."""
        best = self.model.logits(waveform).argmax(axis=1)
        frame_seconds = self.model.stride / self.sample_rate_hz
        return greedy_words(best, self.model.labels, frame_seconds)


def transcriber_of(name: str, *, weights: str | None = None, device: str = "cpu") -> Transcriber:
    """Load a bundle as a transcriber; see `load_bundle`."""
    model = load_bundle(name, weights=weights, device=device)
    return Transcriber(
        name=model.name, license=model.license, sample_rate_hz=model.sample_rate_hz, model=model
    )


def greedy_words(
    best: Int[np.ndarray, " F"], labels: Sequence[str], frame_seconds: float
) -> list[Cue]:
    """Decode the best character of each frame: repeats collapse, blanks go, `|` ends a word.

    Graves et al. 2006, Connectionist Temporal Classification, section 3.2 (best path decoding).
    Label 0 is the blank. A word lasts from its first character's first frame to its last one's end.
    """
    words: list[Cue] = []
    letters, start, end, at = "", 0, 0, 0
    for number, run in groupby(int(each) for each in best):
        first, at = at, at + len(list(run))
        if number == 0:
            continue
        if labels[number] != SPACE:
            start = start if letters else first
            letters += labels[number]
            end = at
        elif letters:
            words.append(Cue(start * frame_seconds, end * frame_seconds, letters.lower()))
            letters = ""
    if letters:
        words.append(Cue(start * frame_seconds, end * frame_seconds, letters.lower()))
    return words


def bundle_names(*, recognises: bool = False) -> list[str]:
    """The bundles of the installed torchaudio, without aligners; or only those for recognition."""
    pipelines = _pipelines()
    kind = pipelines.Wav2Vec2ASRBundle if recognises else pipelines.Wav2Vec2Bundle
    return [
        name
        for name, bundle in vars(pipelines).items()
        if isinstance(bundle, kind) and not isinstance(bundle, pipelines.Wav2Vec2FABundle)
    ]


def load_bundle(name: str, *, weights: str | None = None, device: str = "cpu") -> SpeechModel:
    """Load the model of one of `bundle_names`.

    `weights` is a folder with the file that the bundle downloads, or one of the same stem that ends
    in .safetensors, used instead of the network. Errors are those of `encoders.audio_encoder`.
    """
    where = checked_device(device)
    bundle: Any = getattr(_pipelines(), name)
    file = _find_file(name, Path(bundle._path).name, weights)
    model = _model(bundle)
    _fill(model, _state(file, bundle), name, file)
    layers = bundle._params["extractor_conv_layer_config"]
    strides = np.cumprod([1, *(stride for _, _, stride in layers)])
    kernels = np.array([kernel for _, kernel, _ in layers])
    return SpeechModel(
        name=name,
        license="CC BY-NC 4.0" if "CC BY-NC 4.0" in (bundle.__doc__ or "") else "MIT",
        sample_rate_hz=int(bundle.sample_rate),
        labels=tuple(bundle.get_labels()) if hasattr(bundle, "get_labels") else (),
        dim=bundle._params["encoder_embed_dim"],
        stride=int(strides[-1]),
        reach=int(1 + ((kernels - 1) * strides[:-1]).sum()),
        model=model.eval().to(where),
        normalises=bundle._normalize_waveform,
        device=where,
        files=(file,),
    )


def _pipelines() -> Any:
    load_torchaudio()
    import torchaudio.pipelines

    return torchaudio.pipelines


def _model(bundle: Any) -> torch.nn.Module:
    """The architecture alone; `bundle.get_model` would look for weights in its own way."""
    from torchaudio.models import wav2vec2_model, wavlm_model

    factories = {"Wav2Vec2": wav2vec2_model, "WavLM": wavlm_model}
    return factories[bundle._model_type](**bundle._params)


def _find_file(name: str, file_name: str, weights: str | None) -> Path:
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    folder = cache if weights is None else Path(weights).expanduser()
    for file in (folder / Path(file_name).with_suffix(".safetensors"), folder / file_name):
        if file.is_file():
            return file
    if weights is not None:
        raise ResourceError(
            f"{folder}: no {file_name}, the weights of {name}; download {_HOST}{file_name}"
        )
    otherwise = (
        f"without the network, put {file_name} into a folder and set weights to it, or into {cache}"
    )
    check_reachable(_HOST + file_name, otherwise=otherwise)
    cache.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(_HOST + file_name, str(cache / file_name))
    except OSError as error:
        raise ResourceError(
            f"{_HOST}{file_name} could not be fetched ({one_line(error)}); try again, "
            f"or {otherwise}"
        ) from error
    return cache / file_name


def _state(file: Path, bundle: Any) -> dict[str, Tensor]:
    """The weights in a file, without the rows of characters that fairseq adds and none uses."""
    state = _read_state(file)
    unused = getattr(bundle, "_remove_aux_axis", ())
    characters = bundle._params.get("aux_num_out")
    for key in ("aux.weight", "aux.bias"):
        if unused and key in state and len(state[key]) == characters + len(unused):
            kept = [i for i in range(len(state[key])) if i not in unused]
            state[key] = state[key][kept]
    return state


def _read_state(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged and foreign files raise errors of any kind
        raise DataError(
            f"{file}: damaged, or not only weights ({one_line(error)}); fetch it again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise DataError(f"{file}: not a table of weights; fetch the file that torchaudio offers")
    return dict(state)


def _fill(model: torch.nn.Module, state: dict[str, Tensor], name: str, file: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).partition(": ")[2][:120]
        raise DataError(
            f"{file}: weights of another model than {name} ({reason} …); fetch {_HOST}{file.name}"
        ) from error
