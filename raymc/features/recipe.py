"""The recipe of features: from a video to tokens, as a dataset records it and a bundle keeps it."""

from collections.abc import Mapping
from typing import Any

from raymc.config import NONE

MADE_BY = "raymc extract"
_OF_CLIPS = ("window_seconds", "stride_seconds")  # which clips there are, not what is in them
_OF_FEATURES = ("fps", "visual", "audio", "text", "transcript", "text_interval_seconds", "dtype")
_IF_ANY = ("screen",)  # noted only where it is not none


def recipe_in(provenance: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings with which `raymc extract` made a dataset; None if it made none."""
    if provenance.get("made_by") != MADE_BY:
        return None
    recipe = {name: provenance.get(name) for name in (*_OF_FEATURES, *_OF_CLIPS)}
    return recipe | {name: provenance[name] for name in _IF_ANY if name in provenance}


def recipe_differences(recipe: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the settings by which two recipes give other features, as `fps: 1.0 → 2.0`."""
    names = (*_OF_FEATURES, *_IF_ANY)
    pairs = ((name, recipe.get(name, NONE), other.get(name, NONE)) for name in names)
    return [f"{name}: {here} → {there}" for name, here, there in pairs if here != there]
