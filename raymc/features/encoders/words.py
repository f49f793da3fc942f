"""Texts to tokens without weights: hashed words, one token per text.

A text without words is the zero vector.

Axes: T texts, D dim.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32

_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, kw_only=True)
class HashedWords:
    """A bag of words of fixed size: each word adds or subtracts one at a place of its own.

    Place and sign come from a hash of the word, the same on every machine (Weinberger et al.
    2009, Feature Hashing for Large Scale Multitask Learning); the sum has length 1.
    """

    rate_hz: float
    name: str = "words"
    dim: int = 512
    license: str = "no weights"
    has_weights: bool = False

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "T D"]:
        """One token a text."""
        tokens = np.zeros((len(texts), self.dim), np.float32)
        for token, text in zip(tokens, texts):
            for word in words_of(text):
                place, sign = _place(word, self.dim)
                token[place] += sign
            # signs may cancel: then the text is as good as empty
            token /= max(float(np.linalg.norm(token)), 1e-9)
        return tokens


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, in one case and Unicode form."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=1 << 16)
def _place(word: str, dim: int) -> tuple[int, float]:
    number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return (number >> 1) % dim, 1.0 if number & 1 else -1.0
