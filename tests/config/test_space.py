"""Ranges of a search: what they hold, what is refused, and their form for Optuna."""

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ValidationError

from raymc.config import (
    Config,
    Range,
    SearchConfig,
    check_space,
    default_space,
    flatten,
    from_dict,
    load,
)
from raymc.errors import ConfigError
from raymc.search.study import distribution, distributions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give `low` and `high`, or `choices`"),
        ({"low": 1}, "give `low` and `high`, or `choices`"),
        ({"high": 1}, "give `low` and `high`, or `choices`"),
        ({"log": True}, "give `low` and `high`, or `choices`"),
        ({"choices": []}, "give `low` and `high`, or `choices`"),
        ({"low": 2, "high": 1}, "low 2 is above high 1"),
        ({"low": 0, "high": 1, "log": True}, "must start above 0, not at 0"),
        ({"low": -1.5, "high": 1, "log": True}, "must start above 0, not at -1.5"),
        ({"choices": [1], "low": 0}, "either `choices` or `low` and `high`, not both"),
        ({"choices": [1], "high": 0}, "either `choices` or `low` and `high`, not both"),
        ({"choices": [1], "log": True}, "either `choices` or `low` and `high`, not both"),
        ({"low": "a", "high": 1}, "valid integer"),
        ({"low": 0, "high": 1, "step": 1}, "Unexpected keyword"),
    ],
)
def test_a_range_that_is_none(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Range(**values)


@pytest.mark.parametrize(
    ("values", "integer", "expected"),
    [
        (Range(low=0, high=4), True, IntDistribution(0, 4)),
        (Range(low=1, high=64, log=True), True, IntDistribution(1, 64, log=True)),
        (Range(low=0, high=1), False, FloatDistribution(0.0, 1.0)),
        (Range(low=0.1, high=0.1), False, FloatDistribution(0.1, 0.1)),
        (Range(low=1e-4, high=1, log=True), False, FloatDistribution(1e-4, 1.0, log=True)),
        (Range(choices=(1, 2.5, "x", True)), True, CategoricalDistribution((1, 2.5, "x", True))),
    ],
)
def test_the_form_for_optuna(values: Range, integer: bool, expected: BaseDistribution) -> None:
    made = distribution(values, integer=integer)
    assert type(made) is type(expected)
    assert made == expected


def test_the_ends_are_what_must_be_valid() -> None:
    assert Range(low=0.5, high=3).ends() == (0.5, 3)
    assert Range(choices=("a", True, 2)).ends() == ("a", True, 2)


def test_choices_keep_their_types() -> None:
    config = from_dict({"search": {"space": {"loss.two_way": {"choices": [True, False]}}}})
    assert config.search.space["loss.two_way"].choices == (True, False)
    check_space(config)


def test_the_default_space_is_of_settings_and_holds_their_defaults() -> None:
    settings, space = flatten(Config()), default_space()
    assert SearchConfig().space == space
    assert space.keys() == {"loss.margin", "loss.temperature", "model.fusion_depth"}
    for path, values in space.items():
        low, high = values.ends()
        assert low <= settings[path] <= high


# Values that depend on each other


def space(**ranges: dict[str, Any]) -> Config:
    named = {f"model.{name}": values for name, values in ranges.items()}
    return from_dict({"search": {"space": named}})


def test_values_are_checked_together() -> None:
    check_space(space(width={"choices": [48, 96]}, heads={"choices": [4, 6]}))
    check_space(space(depth={"low": 4, "high": 6}, fusion_depth={"low": 0, "high": 4}))
    refused = [
        (space(width={"low": 96, "high": 128}), "width 97 is not a multiple .*as `choices`"),
        (space(width={"choices": [48, 64]}, heads={"choices": [4, 6]}), "width 64 is not"),
        (space(depth={"low": 2, "high": 4}, fusion_depth={"low": 0, "high": 4}), "fusion_depth 4"),
    ]
    for config, message in refused:
        with pytest.raises(ConfigError, match=rf"^search.space: setting model: {message}"):
            check_space(config)


def test_a_search_needs_something_to_search() -> None:
    with pytest.raises(ConfigError, match=r"search.space is empty.*raymc train"):
        check_space(load(None, ["search.space={}"]))


def test_words_and_dates_are_texts(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: {cache: off, modalities: [no, 2024-05-01]}\n")
    config = load(tmp_path / "c.yaml", ["run.name=2024-05-01", "search.try_default=no"])
    assert (config.data.cache, config.data.modalities) == ("off", ("no", "2024-05-01"))
    assert (config.run.name, config.search.try_default) == ("2024-05-01", False)
    for name in ("[/x]", "7", "1e5", "null", "a: b", "@home", "[x"):  # as it was typed
        assert load(None, [f"run.name={name}"]).run.name == name
    assert load(None, ["run.name='a b'", "data.path="]).run.name == "a b"


def test_an_exponent_makes_a_number(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "search:\n  space:\n    optimizer.lr: {choices: [1e-3, 2E-3, .2e-2]}\n"
        "    train.epochs: {low: 1e0, high: 2e1}\nbatch: {size: 1e1}\n"
    )
    config = load(tmp_path / "c.yaml", ["optimizer.lr=2e-3", "run.name=12e45678"])
    assert config.search.space["optimizer.lr"].choices == (0.001, 0.002, 0.002)
    assert (config.batch.size, config.run.name) == (10, "12e45678")
    check_space(config)
    choices = distributions(config)["optimizer.lr"]
    assert isinstance(choices, CategoricalDistribution)
    assert config.optimizer.lr in choices.choices  # so that the configured values are tried first
