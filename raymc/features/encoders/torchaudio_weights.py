"""Speech models of torchaudio.pipelines: found by name, their weights loaded, and run.

Imports torch; torchaudio only when a bundle is asked for. One place for features and for speech
recognition, which differ in what they take from the same model.

Axes: S samples, F frames of the model, D dim, C characters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import layer_norm, pad

from raymc.errors import DataError, ResourceError
from raymc.features.encoders.weights import check_reachable, checked_device, one_line
from raymc.features.torchaudio_compat import load_torchaudio

_HOST = "https://download.pytorch.org/torchaudio/models/"
# Attention grows with the square of a sound's length, and the models learnt on sentences.
_PIECE_FRAMES = 1000
_CONTEXT_FRAMES = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechModel:
    """A bundle's model with its weights.

    Attributes:
        name: The bundle's name in torchaudio.pipelines.
        license: Of the weights, as torchaudio states it.
        sample_rate_hz: Of the wave form it wants.
        labels: The characters of its logits, the blank first; none where it isn't for ASR.
        dim: Values a frame of its features.
        stride: Samples from one frame to the next.
        reach: Samples that the first frame sees of the wave form.
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
        """Run the model; a long sound in pieces that see a second on either side of themselves.

        Cuts lie on the frames' own grid, so that their number and times don't change.
        """
        if len(waveform) == 0:
            return np.zeros((0, dim), np.float32)
        samples = torch.from_numpy(np.ascontiguousarray(waveform)).to(self.device)[None]
        if self.normalises:
            samples = layer_norm(samples, samples.shape)
        samples = pad(samples, (0, max(self.reach - samples.shape[1], 0)))
        frames = (samples.shape[1] - self.reach) // self.stride + 1
        if frames <= _PIECE_FRAMES + 2 * _CONTEXT_FRAMES:
            return run(samples)[0].cpu().numpy()
        pieces = []
        for first in range(0, frames, _PIECE_FRAMES):
            last = min(first + _PIECE_FRAMES, frames)
            start, end = max(first - _CONTEXT_FRAMES, 0), min(last + _CONTEXT_FRAMES, frames)
            seen = samples[:, start * self.stride : (end - 1) * self.stride + self.reach]
            pieces.append(run(seen)[0, first - start : last - start].cpu().numpy())
        return np.concatenate(pieces)


def bundle_names(*, recognises: bool = False) -> list[str]:
    """The bundles of the installed torchaudio, but for aligners; for recognition only, if asked.

    Raises:
        ResourceError: Torchaudio can't be loaded beside this torch.
    """
    pipelines = _pipelines()
    kind = pipelines.Wav2Vec2ASRBundle if recognises else pipelines.Wav2Vec2Bundle
    return [
        name
        for name, bundle in vars(pipelines).items()
        if isinstance(bundle, kind) and not isinstance(bundle, pipelines.Wav2Vec2FABundle)
    ]


def load_bundle(name: str, *, weights: str | None = None, device: str = "cpu") -> SpeechModel:
    """Load a bundle's model.

    Args:
        name: One of `bundle_names`.
        weights: A folder with the file that the bundle downloads, or one of the same stem that
            ends in .safetensors, instead of the network.
        device: Where it computes.

    Raises:
        DataError: A file that is torn, foreign, or of another model.
        ResourceError: A file or a device that is missing.
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
    """The file of weights, fetched to torch's cache if need be."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    folder = cache if weights is None else Path(weights).expanduser()
    for file in (folder / Path(file_name).with_suffix(".safetensors"), folder / file_name):
        if file.is_file():
            return file
    if weights is not None:
        raise ResourceError(
            f"{folder}: no {file_name}, the weights of {name}; get {_HOST}{file_name}"
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
            f"{_HOST}{file_name} was not fetched ({one_line(error)}); try again, or {otherwise}"
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
    except Exception as error:  # torn and foreign files raise anything, pickle's errors too
        raise DataError(
            f"{file}: torn, or not a file of weights alone ({one_line(error)}); fetch it again"
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
