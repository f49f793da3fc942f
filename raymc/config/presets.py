"""Settings that suit a dataset, chosen from its rows, labels and lengths by a rule.

The rule fills in what a user left open: batch size, epochs, depth, and how tokens are read. It is a
pure function, so the same command on the same dataset chooses the same settings, and resumes.
jobs/EXPERIMENTS.md says what the numbers rest on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Size = Literal["auto", "small", "medium", "large"]
SMALL_ROWS = 5000  # below this many rows, `auto` is small
STEPS_AN_EPOCH = 64
LEAST_STEPS = 1200
EPOCHS = (20, 100)
SEQUENCE_TOKENS, SEQUENCE_LABELS = 8, 8
MOST_CLASS_QUERIES = 64
MOST_QUERIED_LABELS = 10_000  # of more, the loss is computed in chunks, for one embedding a clip
LONG_SECONDS = 100.0
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "small": {"model.depth": 2},
    "medium": {"model.depth": 4},
    "large": {"model.depth": 6, "model.width": 256, "model.heads": 8},
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the rule knows of a dataset.

    Attributes:
        rows: Of the training split.
        labels: Classes.
        tokens: Of a typical row, in its longest modality.
        seconds: The length of the longest row.
        rate_hz: Tokens a second of the fastest modality.
    """

    rows: int
    labels: int
    tokens: int
    seconds: float = 0.0
    rate_hz: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How settings that a user left open are chosen.

    Attributes:
        size: Of the model; auto: by the number of rows.
        given: Settings that the user set, by dotted path.
    """

    size: Size = "auto"
    given: frozenset[str] = frozenset()

    def settings(self, shape: Shape, *, least_depth: int = 0) -> dict[str, Any]:
        """Return the settings to use by dotted path, without those that were given.

        Batches grow with the rows, so that small datasets are trained in enough steps. Clips of one
        token are vectors of features: their scale carries information, which a layer norm would
        remove, and what they lack is regularisation. Clips of many tokens and labels may show each
        label at another time, so each label has a query to read it, or, of many, each group of
        look-alikes; of very many labels, four queries read for all. In clips of minutes, waves with
        a period of less than two tokens make moments far apart look alike.

        Args:
            shape: Of the dataset.
            least_depth: Layers that given settings need, such as `model.fusion_depth`.
        """
        size = self.size
        if size == "auto":
            size = "small" if shape.rows < SMALL_ROWS else "medium"
        chosen = dict(SHAPES[size])
        chosen["model.depth"] = max(chosen["model.depth"], least_depth)
        batch = _power_of_two(shape.rows / STEPS_AN_EPOCH, least=8, most=64)
        steps = max(1, math.ceil(shape.rows / batch))
        chosen["batch.size"] = batch
        chosen["train.epochs"] = min(max(math.ceil(LEAST_STEPS / steps), EPOCHS[0]), EPOCHS[1])
        if shape.tokens <= 1:
            chosen |= {"model.token_norm": "none", "model.token_dropout": 0.4}
        elif shape.tokens >= SEQUENCE_TOKENS and shape.labels >= SEQUENCE_LABELS:
            if shape.labels <= MOST_QUERIED_LABELS:
                chosen["model.class_queries"] = min(shape.labels, MOST_CLASS_QUERIES)
            else:
                chosen["model.readout_queries"] = 4
        if shape.tokens <= 1 or batch < 16:
            chosen["optimizer.lr"] = 0.001
        if shape.seconds > LONG_SECONDS:
            chosen["model.longest_period_seconds"] = 2 * math.ceil(shape.seconds)
            chosen["model.shortest_period_seconds"] = min(2 / shape.rate_hz, shape.seconds)
        if "model.readout_queries" in self.given:  # the other way to read
            chosen.pop("model.class_queries", None)
        if self.given & {"model.width", "model.heads"}:  # which must divide one another
            chosen.pop("model.width", None)
            chosen.pop("model.heads", None)
        return {key: value for key, value in chosen.items() if key not in self.given}


def preset_line(chosen: Mapping[str, Any], shape: Shape) -> str:
    """Say in a line what was chosen, and from what."""
    listed = ", ".join(f"{key}={value}" for key, value in chosen.items())
    return (
        f"settings for {shape.rows:,} rows, {shape.labels:,} labels and {shape.tokens:,} tokens a "
        f"row: {listed} (change them with KEY=VALUE or --preset)"
    )


def _power_of_two(value: float, *, least: int, most: int) -> int:
    """Return the smallest power of two from `value` on, within limits."""
    return min(max(2 ** math.ceil(math.log2(max(value, 1))), least), most)
