"""Settings that suit a dataset: what the rule chooses, and what it leaves alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LABELS, SPLIT_ROWS, tiny_row

from raymc.cli.options import load_config, load_preset
from raymc.cli.runs import _fitted
from raymc.config import Config, Preset, Shape, override, preset_line
from raymc.data.shards import Dataset
from raymc.data.survey import measure, survey
from raymc.errors import ConfigError

CLIPS = Shape(rows=700, labels=51, tokens=75)


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "depth"),
    [
        (1, 8, 100, 2),
        (41, 8, 100, 2),
        (313, 8, 30, 2),
        (700, 16, 28, 2),
        (1200, 32, 32, 2),
        (4999, 64, 20, 2),
        (5000, 64, 20, 4),
        (3_900_000, 64, 20, 4),
    ],
)
def test_small_datasets_get_small_batches_more_epochs_and_fewer_layers(
    rows: int, batch: int, epochs: int, depth: int
) -> None:
    chosen = Preset().settings(Shape(rows=rows, labels=51, tokens=75))
    found = (chosen["batch.size"], chosen["train.epochs"], chosen["model.depth"])
    assert found == (batch, epochs, depth)


@pytest.mark.parametrize(
    ("labels", "tokens", "expected"),
    [
        (6, 1, {"model.token_norm": "none", "model.token_dropout": 0.4, "optimizer.lr": 0.001}),
        (51, 75, {"model.class_queries": 51}),
        (3862, 75, {"model.class_queries": 64}),
        (100_000, 75, {"model.readout_queries": 4}),
        (51, 3, {}),
        (6, 75, {}),
    ],
)
def test_tokens_are_read_as_their_number_asks(
    labels: int, tokens: int, expected: dict[str, Any]
) -> None:
    chosen = Preset().settings(Shape(rows=1000, labels=labels, tokens=tokens))
    assert chosen.keys() - {"batch.size", "train.epochs", "model.depth"} == expected.keys()
    assert {key: chosen[key] for key in expected} == expected


@pytest.mark.parametrize("size", ["auto", "small", "medium", "large"])
@pytest.mark.parametrize("rows", [0, 5, 10**7])
@pytest.mark.parametrize("tokens", [0, 1, 300])
def test_every_choice_is_a_valid_configuration(size: Any, rows: int, tokens: int) -> None:
    shape = Shape(rows=rows, labels=3862, tokens=tokens)
    chosen = Preset(size=size).settings(shape)
    assert override(Config(), chosen) != Config()
    given = frozenset(chosen)
    assert Preset(size=size, given=given).settings(shape) == {}


def test_periods_follow_the_length_of_long_clips_and_the_rate() -> None:
    long = Shape(rows=1000, labels=6, tokens=600, seconds=599.5, rate_hz=4.0)
    chosen = Preset().settings(long)
    assert chosen["model.longest_period_seconds"] == 1200
    assert chosen["model.shortest_period_seconds"] == 0.5
    assert not any("period" in key for key in Preset().settings(CLIPS))
    slow = Shape(rows=9, labels=6, tokens=2, seconds=1000.0, rate_hz=1e-4)
    assert override(Config(), Preset().settings(slow))


def test_queries_of_labels_are_left_out_where_others_are_given() -> None:
    given = frozenset({"model.readout_queries"})
    assert "model.class_queries" in Preset().settings(CLIPS)
    assert not Preset(given=given).settings(CLIPS).keys() & {"model.class_queries", *given}


def test_sizes_order_models() -> None:
    made = [override(Config(), Preset(size=s).settings(CLIPS)).model for s in ("small", "large")]
    assert (made[0].depth, made[0].width, made[1].depth, made[1].width) == (2, 96, 6, 256)
    narrow = Preset(size="large", given=frozenset({"model.heads"})).settings(CLIPS)
    assert not narrow.keys() & {"model.width", "model.heads"}


def test_the_line_says_what_was_chosen_and_from_what() -> None:
    line = preset_line({"batch.size": 8, "model.token_norm": "none"}, CLIPS)
    assert line == (
        "settings for 700 rows, 51 labels and 75 tokens a row: batch.size=8, model.token_norm=none "
        "(change them with KEY=VALUE or --preset)"
    )


def test_what_a_command_was_given_stays(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: {depth: 3}\nsearch: {space: {loss.margin: {low: 0, high: 1}}}\n")
    asked = (str(file), ("batch.size=5",), {"train.epochs": 7, "run.name": None})
    assert load_preset(*asked, None) is None  # a file is taken as it is
    preset = load_preset(*asked, "small")
    assert preset is not None
    assert preset.size == "small"
    assert preset.given >= {"model.depth", "batch.size", "train.epochs"}
    assert "run.name" not in preset.given
    config = override(load_config(*asked), preset.settings(CLIPS))
    assert (config.model.depth, config.batch.size, config.train.epochs) == (3, 5, 7)
    for target in (None, "data/lessons", "data.path=here"):
        assert load_preset(target, (), {}, None) == Preset(
            given=frozenset({"data.path"} if target == "data.path=here" else ())
        )
    with pytest.raises(ConfigError, match=r"expected KEY=VALUE"):
        load_preset(None, ("batch.size",), {}, None)


def test_a_dataset_s_shape(tiny: Dataset, tiny_config: Config) -> None:
    rows = [tiny_row("train", i) for i in range(SPLIT_ROWS["train"])]
    lengths = [[0 if x is None else len(x) for x in row.tokens.values()] for row in rows]
    both = Shape(
        rows=len(rows),
        labels=len(LABELS),
        tokens=round(np.median(np.max(lengths, axis=1))),
        seconds=float(max(np.max(lengths, axis=0) / [2.0, 4.0])),
        rate_hz=4.0,
    )
    assert survey(tiny, tiny_config.data).shape == both == measure(tiny, tiny_config.data)
    sound = override(tiny_config, {"data.modalities": ["audio"]}).data
    assert survey(tiny, sound).shape.tokens == round(np.median(np.array(lengths)[:, 1]))


def test_a_sweep_s_space_fits_the_depth_and_is_not_fixed(tiny: Dataset) -> None:
    base = override(Config(), {"data.path": tiny.path})
    shape = survey(tiny, base.data).shape
    plain, [line] = _fitted(base, shape, Preset(), sweep=False)
    assert (plain.model.depth, plain.batch.size) == (2, 8)
    assert "model.depth=2" in line
    assert plain.search == base.search
    config, _ = _fitted(base, shape, Preset(), sweep=True)
    assert config.search.space["model.fusion_depth"].ends() == (0, 2)
    space = {"model.fusion_depth": {"low": 1, "high": 3}, "batch.size": {"choices": [4, 5]}}
    own = override(base, {"search.space": space})
    given = frozenset({"search.space"})
    config, _ = _fitted(own, shape, Preset(given=given), sweep=True)
    assert (config.model.depth, config.batch.size) == (3, 64)  # the searched one as it was
    assert config.search == own.search
    deep = override(base, {"model.fusion_depth": 4})
    given = frozenset({"model.fusion_depth"})
    assert _fitted(deep, shape, Preset(given=given), sweep=False)[0].model.depth == 4
    assert _fitted(base, shape, None, sweep=True) == (base, [])
