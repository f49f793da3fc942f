"""Texts to tokens by a text tower of transformers.

One token per text; a text without words is the zero vector.

Axes: T texts, N pieces of words, D dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from raymc.errors import ConfigError, DataError, RaymcError
from raymc.features.encoders.hub import (
    Pretrained,
    check_complete,
    files_of,
    find_model,
    license_of,
    load_model,
    load_tokenizer,
)
from raymc.features.encoders.weights import checked_device, digest_of_files, in_batches, one_line

FILES = ("config.json", "model.safetensors", "tokenizer.json")
_MOST_PIECES = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTower:
    """A text model as an encoder.

    A token is the pooled output where a model was trained by it, as the text towers of CLIP and
    SigLIP were (before their projection), and the mean over the last layer's pieces elsewhere:
    BERT's pooler was trained for another task. Longer texts are cut at what the model can read.
    """

    name: str
    dim: int
    rate_hz: float
    license: str
    reader: "_Reader" = field(repr=False)
    folder: Path = field(repr=False)
    has_weights: bool = True

    def digest(self) -> str:
        """Return the SHA-256 of the model's files, in hex."""
        return digest_of_files(files_of(self.folder, FILES))

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "T D"]:
        """One token a text, from that text alone; equal texts are read once."""
        tokens = np.zeros((len(texts), self.dim), np.float32)
        known = sorted({text.strip() for text in texts} - {""}, key=lambda text: (len(text), text))
        if not known:
            return tokens
        vectors = dict(zip(known, in_batches(known, self.reader, self.reader.device)))
        for token, text in zip(tokens, texts):
            token[:] = vectors.get(text.strip(), 0.0)
        return tokens


def text_tower(
    name: str,
    *,
    rate_hz: float,
    weights: str | None = None,
    device: str = "cpu",
    folder: Path | None = None,
) -> TextTower:
    """Load the text tower of a model, or a model of text such as BERT.

    `name` and `weights` are those of `hub.find_model`, which is not asked where `folder` has the
    model. Errors are those of `encoders.text_encoder`.
    """
    where = checked_device(device)
    folder = folder or find_model(name, weights, files=FILES)
    pretrained = load_model(folder)
    try:
        reader = _reader(folder, pretrained, where)
        dim = reader(["a"]).shape[1]
    except (RaymcError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a model that isn't for text may raise anything
        raise ConfigError(
            f"{name} doesn't turn a text into a vector ({one_line(error)}); take a text model such "
            "as sentence-transformers/all-MiniLM-L6-v2"
        ) from error
    return TextTower(
        name=name,
        dim=dim,
        rate_hz=rate_hz,
        license=license_of(folder),
        reader=reader,
        folder=folder,
    )


@dataclass(frozen=True)
class _Reader:
    tower: torch.nn.Module
    tokenizer: Any
    pooled: bool
    padding: str
    most_pieces: int
    device: torch.device

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> Float32[Tensor, "T D"]:
        pieces = self.tokenizer(
            texts,
            padding=self.padding,
            truncation=True,
            max_length=self.most_pieces,
            return_tensors="pt",
        ).to(self.device)
        output: Any = self.tower(**pieces)
        if self.pooled:
            return output.pooler_output.float()
        mask = pieces["attention_mask"][:, :, None].float()
        return (output.last_hidden_state.float() * mask).sum(1) / mask.sum(1)


def _reader(folder: Path, pretrained: Pretrained, device: torch.device) -> _Reader:
    model: Any = pretrained.model
    inner = getattr(model, "text_model", None)
    prefix = "" if inner is None else "text_model."
    tower = model if inner is None else inner
    if inner is None and model.config.is_encoder_decoder:
        tower, prefix = model.get_encoder(), "encoder."
    kind = getattr(tower.config, "model_type", "")
    pooled = inner is not None or kind.endswith("_text_model")
    missing = {key.removeprefix(prefix) for key in pretrained.missing if key.startswith(prefix)}
    unused = {key for key in missing if key.startswith("pooler.") and not pooled}
    check_complete(folder, frozenset(missing - unused))
    tokenizer = _tokenizer(folder, tower)
    positions = getattr(tower.config, "max_position_embeddings", _MOST_PIECES)
    return _Reader(
        tower=tower.to(device),
        tokenizer=tokenizer,
        pooled=pooled,
        padding="max_length" if kind.startswith("siglip") else "longest",  # as it was trained
        most_pieces=min(tokenizer.model_max_length, positions, _MOST_PIECES),
        device=device,
    )


def _tokenizer(folder: Path, tower: Any) -> Any:
    tokenizer = load_tokenizer(folder)
    rows = tower.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise DataError(
            f"{folder}: the tokenizer has {len(tokenizer)} pieces where the model knows {rows}; "
            "take its files from the same model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer
