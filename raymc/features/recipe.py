"""The recipe of features: from a video to tokens, as a dataset records it and a bundle keeps it."""

from collections.abc import Collection, Mapping
from typing import Any

from raymc.config import NONE

MADE_BY = "raymc extract"
# Raise it with any change after which the same media and settings give other tokens.
FEATURES = 1
FEATURES_KEY = "features"  # noted from 2 on
ENCODER_WEIGHTS = "encoder_weights"  # SHA-256 of each encoder's files, by modality
_OF_CLIPS = ("window_seconds", "stride_seconds")  # which clips there are, not what is in them
_OF_MODALITY = {
    "visual": ("visual", "fps", "frames"),
    "audio": ("audio", "audio_rate_hz"),
    "text": ("text", "transcript", "text_interval_seconds", "language"),
    "speech": ("text", "transcript", "text_interval_seconds"),
    "screen": ("screen",),
}
_OF_FEATURES = ("fps", "visual", "audio", "text", "transcript", "text_interval_seconds", "dtype")
# Newer settings, noted only where they are not at their defaults, which are these.
LATER = {"language": "", "screen": NONE, "frames": "all", "audio_rate_hz": 10.0}


def recipe_in(provenance: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings with which `raymc extract` made a dataset; None if it made none."""
    if provenance.get("made_by") != MADE_BY:
        return None
    noted = (*LATER, ENCODER_WEIGHTS, FEATURES_KEY)
    given = {name: provenance[name] for name in noted if name in provenance}
    return {name: provenance.get(name) for name in (*_OF_FEATURES, *_OF_CLIPS)} | given


def recipe_differences(
    recipe: Mapping[str, Any], other: Mapping[str, Any], lacking: Collection[str] = ()
) -> list[str]:
    """Return the settings by which two recipes give other features, as `fps: 1.0 → 2.0`.

    Weights differ if both recipes know them; those of older versions of raymc don't. Settings of
    the modalities in `lacking`, which one of them does without, may differ.
    """
    free = {name for modality in lacking for name in _OF_MODALITY.get(modality, ())}
    names = [name for name in _OF_FEATURES if name not in free]
    pairs = [(name, recipe.get(name), other.get(name)) for name in names]
    pairs += [
        (name, recipe.get(name, default), other.get(name, default))
        for name, default in LATER.items()
        if name not in free
    ]
    pairs += [(FEATURES_KEY, recipe.get(FEATURES_KEY, 1), other.get(FEATURES_KEY, 1))]
    weights, others = (one.get(ENCODER_WEIGHTS, {}) for one in (recipe, other))
    pairs += [
        (f"weights of {recipe.get(name) or name}", weights[name][:12], others[name][:12])
        for name in weights
        if name in others
    ]
    return [
        f"{name}: {here or NONE} → {there or NONE}" for name, here, there in pairs if here != there
    ]
