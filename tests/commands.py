"""Command lines that stand in definitions and documents, parsed by the programs they are for.

Nothing is run: click's own parser has to accept the options and arguments.
"""

import json
import re
import shlex
import warnings
from argparse import ArgumentParser
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from raymc.cli.options import load_config

ROOT = Path(__file__).parents[1]
IN_IMAGE = "/opt/raymc/"


def parse(words: list[str]) -> None:
    """Have a program's command line parse a command.

    Raises:
        click.ClickException: it has no such command, option or argument.
        raymc.errors.ConfigError: it has no such setting.
        FileNotFoundError: there is no such job.
    """
    program, *rest = [word.replace(IN_IMAGE, f"{ROOT}/") for word in words]
    match Path(program).name:
        case "python":
            _parse_python(rest)
        case "raymc":
            from raymc.cli.main import main

            _load(_parse_click(main, rest).params)
        case "ray":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Ray Serve's, of pydantic
                from ray.scripts.scripts import cli

            _parse_ray(cli, rest)
        case "mlflow":
            from mlflow.cli import cli

            _parse_click(cli, rest)
        case other:
            raise click.UsageError(f"{other} isn't a program that is known here")


def _parse_python(words: list[str]) -> None:
    if words[0] == "-m":
        _, module, *rest = words
        name = f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
        _parse_arguments(import_module(name).make_parser(), rest)
        return
    file, *rest = words
    found = re.search(r'main\(\["(\w+)", \*sys\.argv\[1:\]\]\)', (ROOT / file).read_text())
    if found is None:
        raise click.UsageError(f"{file} isn't a command of raymc")
    parse(["raymc", found[1], *rest])


def _parse_arguments(parser: ArgumentParser, words: list[str]) -> None:
    try:
        parser.parse_args(words)
    except SystemExit as error:
        raise click.UsageError(f"{parser.prog} takes no {words}") from error


def _load(given: dict[str, Any]) -> None:
    """Load the configuration that a command of raymc was given, if it takes one."""
    if "overrides" in given:
        target = given.get("target", given.get("config"))
        is_setting = target is not None and "=" in target
        load_config(
            target if target is None or is_setting else str(ROOT / target), given["overrides"]
        )


def _parse_ray(cli: click.Group, words: list[str]) -> None:
    if "--" in words:
        parse(words[words.index("--") + 1 :])
    for flag, value in pairwise(words):
        if flag in ("--runtime-env-json", "--entrypoint-resources", "--entrypoint-label-selector"):
            json.loads(value)
    _parse_click(cli, words)


def _parse_click(command: click.Command, words: list[str]) -> click.Context:
    context = click.Context(command)
    while isinstance(command, click.Group):
        name = words[0] if words else ""
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no command {name!r}")
        command, words = found, words[1:]
    return command.make_context(command.name or "", list(words))


def in_markdown(text: str) -> list[list[str]]:
    """Return the commands of raymc and Ray in a document's code blocks, as words."""
    lines: list[str] = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines += re.sub(r"\\\n\s*", "", block).splitlines()
    alone = (re.split(r"\s(?:>|&&|\|)\s", line)[0] for line in lines)  # without the shell's part
    found = (shlex.split(line, comments=True) for line in alone if _is_ours(line))
    return [_without_environment(words) for words in found]


def _is_ours(line: str) -> bool:
    return re.match(r"(\w+=\S+ )*(raymc|ray|python (jobs/\S+|-m cluster\.\w+)) ", line) is not None


def _without_environment(words: list[str]) -> list[str]:
    first = next(i for i, word in enumerate(words) if not re.match(r"\w+=", word))
    return words[first:]
