"""Settings as options: named as people type them, and back to settings."""

from collections.abc import Mapping
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field
from pydantic.dataclasses import dataclass

from raymc.cli.main import main
from raymc.cli.options import option_name, options_of, settings_of


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Some of every kind."""

    name: Literal["some"] = Field(default="some", description="Never an option.")
    file: str = Field(description="A file.")
    policy: Literal["first", "last"] = Field(default="first", description="Which.")
    modalities: Mapping[str, str] = Field(default_factory=dict, description="Columns.")
    rates_hz: Mapping[str, float] = Field(default_factory=dict, description="Rates.")
    keep: tuple[str, ...] = Field(default=(), description="Columns to keep.")
    share: float = Field(default=0.2, ge=0, lt=1, description="A share.")
    rows: int | None = Field(default=None, description="How many.")
    sizes: tuple[int, ...] = Field(default=(1, 2), description="Sizes.")
    skip_damaged: bool = Field(default=False, description="Whether.")


def given(*arguments: str) -> dict[str, Any]:
    """What a command of these options was given."""
    found: dict[str, Any] = {}
    command = click.Command(
        "some", params=options_of(Settings), callback=lambda **values: found.update(values)
    )
    result = CliRunner().invoke(command, list(arguments))
    if result.exit_code:
        raise click.UsageError(result.output)
    return settings_of(Settings, found)


def test_what_is_given_becomes_settings() -> None:
    assert given("--file", "a") == {"file": "a"}
    settings = given(
        *("--file", "a", "--policy", "last", "--share", "0.5", "--skip-damaged"),
        *("--modality", "audio=a.*=b", "--modality", "video=v", "--rate", "audio=25"),
        *("--keep", "url", "--keep", "title", "--size", "3"),
    )
    assert Settings(**settings) == Settings(
        file="a",
        policy="last",
        share=0.5,
        skip_damaged=True,
        modalities={"audio": "a.*=b", "video": "v"},
        rates_hz={"audio": 25.0},
        keep=("url", "title"),
        sizes=(3,),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--file'"),
        (("--file", "a", "--policy", "none"), "'none' is not one of 'first', 'last'"),
        (("--file", "a", "--name", "other"), "No such option"),
        (("--file", "a", "--share", "1"), "1.0 is not in the range 0<=x<1"),
        (("--file", "a", "--rows", "x"), "'x' is not a valid integer"),
        (("--file", "a", "--size", "x"), "'x' is not a valid integer"),
    ],
)
def test_other_options_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        given(*arguments)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("trian", "No such command 'trian'. Did you mean 'train'? See raymc --help."),
        (
            "train --nmae x",
            "No such option '--nmae'. Did you mean '--name'? See raymc train --help.",
        ),
        ("data spilt x", "No such command 'spilt'. Did you mean 'split'? See raymc data --help."),
        ("evaluate", "Missing argument 'RUN'. See raymc evaluate --help."),
    ],
)
def test_a_command_that_is_typed_wrong_gives_one_line(arguments: str, line: str) -> None:
    result = CliRunner().invoke(main, arguments.split(), prog_name="raymc")
    assert result.exit_code == 2
    assert result.output == f"raymc: {line}\n"


def test_a_piece_without_a_name_is_refused() -> None:
    for piece in ("audio", "=a", "audio="):
        with pytest.raises(click.BadParameter, match=r"expected NAME=VALUE") as caught:
            settings_of(Settings, {"modalities": (piece,)})
        assert caught.value.param_hint == "--modality"


def test_names_are_those_people_type() -> None:
    assert option_name("window_seconds", many=False) == "window"
    assert option_name("classes", many=False) == "classes"
    assert option_name("columns", many=True) == "column"
    assert option_name("classes", many=True) == "class"
    assert option_name("batches", many=True) == "batch"


def test_help_explains_every_setting() -> None:
    command = click.Command("some", params=options_of(Settings))
    helped = CliRunner().invoke(command, ["--help"]).output
    text = " ".join(helped.split())
    for name, field in Settings.__pydantic_fields__.items():  # type: ignore[attr-defined]
        assert (field.description in text) == (name != "name")
    assert "[default: 0.2; 0<=x<1]" in text
    assert "[default: 1 2]" in text


def test_a_list_may_keep_its_own_name() -> None:
    options = {one.name: one for one in options_of(Settings, plural={"sizes": "N"})}
    assert (options["sizes"].opts, options["sizes"].metavar) == (["--sizes"], "N")
    assert options["rates_hz"].opts == ["--rate"]
