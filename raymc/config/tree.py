"""The whole configuration: read from YAML, changed by dotted overrides, checked before any work.

This file joins the sections, explains in one line what is wrong with a file or an override, and
says which settings make two runs differ.
"""

import dataclasses
import difflib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from raymc.addresses import has_password, redacted, without_password
from raymc.config.data import BatchConfig, DataConfig, ExtractConfig
from raymc.config.formats import MAKERS
from raymc.config.model import LossConfig, ModelConfig, OptimizerConfig
from raymc.config.places import LONGEST_NAME, Place
from raymc.config.run import RunConfig, TrackingConfig, TrainConfig
from raymc.config.search import SearchConfig
from raymc.errors import ConfigError, UnknownSettingError

Settings = TypeVar("Settings")
SHORTEST_ID = 6  # characters of an id by which a run may be asked for


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Config:
    """All settings."""

    data: DataConfig = Field(default_factory=DataConfig, description="The dataset.")
    extract: ExtractConfig = Field(
        default_factory=ExtractConfig, description="Features from videos."
    )
    batch: BatchConfig = Field(default_factory=BatchConfig, description="Batches of rows.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="The transformer.")
    loss: LossConfig = Field(default_factory=LossConfig, description="The loss.")
    optimizer: OptimizerConfig = Field(
        default_factory=OptimizerConfig, description="The optimizer."
    )
    train: TrainConfig = Field(default_factory=TrainConfig, description="Training.")
    search: SearchConfig = Field(default_factory=SearchConfig, description="The sweep.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="MLflow.")
    run: RunConfig = Field(default_factory=RunConfig, description="Name and folder.")


_MOST_COMBINATIONS = 20_000  # of searched values that are checked: a quarter of a second
_OPENED_HERE = ("tracking.uri", "search.storage")


class _Yaml(yaml.SafeLoader):
    """YAML as PyYAML reads it, but with three things as in YAML 1.2.

    1e-3 is a number, `off` and `no` are words, and so is a date.
    """


_Yaml.yaml_implicit_resolvers = {
    first: [one for one in known if one[0].rpartition(":")[2] not in ("bool", "timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d{1,3}$"),
    list("-+.0123456789"),
)


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file (without a path: the defaults), apply overrides and check the result.

    Raises:
        ConfigError: names the file or override, the key and what was expected.
    """
    config = Config() if path is None else from_dict(_read_yaml(Path(path)), source=str(path))
    config = overridden(config, overrides)
    check_passwords(config)
    return config


def settings_in(path: str | Path | None, overrides: Sequence[str] = ()) -> frozenset[str]:
    """Return which settings a YAML file and overrides set, by dotted path.

    Raises:
        ConfigError: the file can't be read, or an override is not KEY=VALUE.
    """
    values = {} if path is None else _read_yaml(Path(path))
    return frozenset(
        [*dict(_leaves(values, "")), *(_parse_override(text)[0] for text in overrides)]
    )


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """Apply overrides of the form `dotted.path=value`: YAML, or the value of a text as it is.

    Raises:
        ConfigError: names the override, the key and what was expected.
    """
    return override(config, dict(_parse_override(text) for text in overrides))


def from_dict(values: Mapping[str, Any], *, source: str = "") -> Config:
    """Build and check a configuration from nested plain values.

    Raises:
        ConfigError: names the first key or value that is wrong.
    """
    return checked(Config, values, source=source)


def checked(kind: type[Settings], values: Mapping[str, Any], *, source: str = "") -> Settings:
    """Build and check settings of some class from plain values, as `from_dict` does."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        kinds = {each["type"] for each in error.errors()}
        unknown = "unexpected_keyword_argument" in kinds
        wrong = UnknownSettingError if unknown else ConfigError
        raise wrong(_explain(error, source, kind)) from None


def to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as nested plain values, which `from_dict` reads back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(config: Config) -> dict[str, Any]:
    """Return all settings by dotted path."""
    return dict(_leaves(to_dict(config), ""))


def places(config: Config) -> dict[str, str]:
    """Return the settings that name a file or folder, by dotted path; without empty ones."""
    return {key: place for key, place in _places(config, "") if place}


def _places(section: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(section):
        key, value = f"{prefix}{field.name}", getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _places(value, f"{key}.")
        elif field.type == Place:
            yield key, value
        elif Place in get_args(field.type):  # of each split
            yield from ((f"{key}.{name}", place) for name, place in value.items())


def override(config: Config, settings: Mapping[str, Any]) -> Config:
    """Replace settings, given by dotted path.

    Raises:
        ConfigError: an unknown path or a value out of range.
    """
    values = to_dict(config)
    for dotted, value in settings.items():
        _set(values, dotted, value)
    return from_dict(values)


def digest(config: Config, *, with_space: bool = False) -> str:
    """Return 8 hexadecimal digits that differ between runs whose results differ.

    Settings that do not change the result are left out: names, folders, tracking, caching,
    devices and the number of workers. Of the search only the space counts, and only with
    `with_space`.
    """
    return hashlib.sha256(json.dumps(_identity(config, with_space)).encode()).hexdigest()[:8]


def differences(config: Config, other: Config, *, with_space: bool = False) -> list[str]:
    """Return the settings that make the results of two runs differ, as `path: value → other`."""
    differing = differing_settings((config, other), with_space=with_space)
    return [f"{key}: {here} → {there}" for key, (here, there) in differing.items()]


def differing_settings(
    configs: Sequence[Config], *, with_space: bool = False
) -> dict[str, tuple[Any, ...]]:
    """Return the settings that make the results of runs differ: each run's value by dotted path."""
    leaves = [dict(_leaves(_identity(config, with_space), "")) for config in configs]
    values = {key: tuple(one.get(key) for one in leaves) for key in sorted(set().union(*leaves))}
    return {key: each for key, each in values.items() if any(one != each[0] for one in each)}


def run_name(config: Config, *, sweep: bool = False) -> str:
    """Return the name given to the run, or one derived from its dataset, loss and settings."""
    kind = "sweep" if sweep else config.loss.name
    end = f"-{kind}-{digest(config, with_space=sweep)}"
    name = os.fsencode(Path(config.data.path).name)[: LONGEST_NAME - len(end)]
    return config.run.name or name.decode(errors="ignore") + end


def _identity(config: Config, with_space: bool) -> dict[str, Any]:
    """Return the settings on which the result depends, in a fixed order."""
    values = to_dict(config)
    space = values.pop("search")["space"]
    for section in ("run", "tracking", "extract"):
        del values[section]
    left_out = ("workers", "device", "max_failures", "checkpoint_steps", "worker_resources")
    for key in left_out:
        del values["train"][key]
    for key in ("cache", "cache_share", "make"):
        del values["data"][key]
    del values["batch"]["rows_per_pass"]
    return {**values, "search": {"space": space}} if with_space else values


def is_setting(text: str) -> bool:
    """Return whether an argument is an override such as `loss.margin=0.2`, not a name with `=`."""
    section = text.partition("=")[0].partition(".")[0].strip()
    return "=" in text and section in {field.name for field in dataclasses.fields(Config)}


def check_space(config: Config) -> None:
    """Check that the search may try something, and that all of it is valid, also together.

    Raises:
        ConfigError: The space is empty, or names a path that is unknown, leaves its range, does
            not fit others, or is the same for all trials.
    """
    space = config.search.space
    if not space:
        raise ConfigError(
            "search.space is empty, so there is nothing to search: give it settings and their "
            "ranges, or use `raymc train`"
        )
    for dotted in space:
        if dotted.partition(".")[0] in ("data", "extract", "search", "tracking", "run"):
            raise ConfigError(
                f"search.space: {dotted} is the same for all trials; search only settings of "
                "batch, model, loss, optimizer or train"
            )
    sections = dict.fromkeys(dotted.rpartition(".")[0] for dotted in space)
    for section in sections:  # settings restrict each other within a section only
        _check_together(config, [path for path in space if path.rpartition(".")[0] == section])


def _check_together(config: Config, paths: Sequence[str]) -> None:
    """Check the combinations of the values that some settings of one section may have."""
    settings = flatten(config)
    whole = [type(settings.get(path)) is int for path in paths]
    values = [
        config.search.space[path].values(integer=is_whole) for path, is_whole in zip(paths, whole)
    ]
    section = getattr(config, paths[0].rpartition(".")[0], None)
    for chosen in itertools.islice(itertools.product(*values), _MOST_COMBINATIONS):
        tried = dict(zip(paths, chosen))
        try:
            if dataclasses.is_dataclass(section) and not isinstance(section, type):
                given = {path.rpartition(".")[2]: value for path, value in tried.items()}
                type(section)(**{**dataclasses.asdict(section), **given})
            else:
                override(config, tried)
        except (ValidationError, ConfigError):
            _explain_combination(config, tried, is_range=any(whole))


def _explain_combination(config: Config, tried: Mapping[str, Any], *, is_range: bool) -> None:
    """Raise the error of values that can't be had together."""
    try:
        override(config, tried)
    except ConfigError as error:
        hint = ""
        if is_range and str(error).startswith("setting") and " = " not in str(error):
            hint = "; every value of a range must fit: list those that do as `choices`"
        raise ConfigError(f"search.space: {error}{hint}") from None


def check_passwords(config: Config) -> None:
    """Check that only addresses that this process alone opens have a password.

    Raises:
        ConfigError: Another setting has one, which other processes would have to be sent.
    """
    for key, value in flatten(config).items():
        if key not in _OPENED_HERE and isinstance(value, str) and has_password(value):
            raise ConfigError(
                f"setting {key} has a password or key, and all processes of a run need it: leave "
                "it out of the address, and set it in the environment (such as AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY)"
            )


def _parse_override(text: str) -> tuple[str, Any]:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        raise ConfigError(
            f"override {without_password(text)!r}: expected KEY=VALUE, such as loss.margin=0.2"
        )
    dotted = dotted.strip()
    try:
        parsed = yaml.load(value, _Yaml)
    except yaml.YAMLError as error:
        if _is_text(dotted):
            return dotted, value
        shown = f"{dotted}={without_password(value)}"
        raise ConfigError(f"override {shown!r}: the value is not valid YAML") from error
    return dotted, value if _is_text(dotted) and not isinstance(parsed, str) else parsed


def _is_text(dotted: str) -> bool:
    """Return whether a setting is a text, so that any value is one: a name may be `7` or `[a]`."""
    section, _, key = dotted.partition(".")
    kind = get_type_hints(Config).get(section)
    return kind is not None and get_type_hints(kind).get(key) is str


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(), _Yaml)
    except OSError as error:
        raise ConfigError(f"configuration {path} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not valid YAML: {_fault(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            f"configuration {path}: expected sections such as `model:` at the top level"
        )
    return values


def _fault(error: Exception) -> str:
    """Return what is wrong and where; not the line itself, which may hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"{error.problem}, line {mark.line + 1}, column {mark.column + 1}"


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a value in nested dictionaries; missing sections are created."""
    *sections, key = dotted.split(".")
    if sections[:2] == ["search", "space"]:
        sections, key = ["search", "space"], ".".join([*sections[2:], key])
    for section in sections:
        inner = values.get(section)
        if not isinstance(inner, dict):
            inner = values[section] = {}
        values = inner
    values[key] = value


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _explain(error: ValidationError, source: str, kind: Any) -> str:
    """Return one line about the first error that pydantic found in settings of a class."""
    first = next(
        (e for e in error.errors() if e["type"] == "unexpected_keyword_argument"),
        error.errors()[0],
    )
    places = [str(part) for part in first["loc"]]
    maker = places.pop(2) if places[:2] == ["data", "make"] and len(places) > 2 else ""
    dotted, where = ".".join(places), f" (in {source})" if source else ""
    if first["type"] == "unexpected_keyword_argument":
        known = _keys(MAKERS[maker]) if maker else _keys(kind(), *places[:-1])
        near = difflib.get_close_matches(places[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        return f"unknown setting {dotted!r}{where}: {hint}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("missing", "value_error"):  # the input is the whole section
        return f"setting {dotted}{where}: {message}"
    given = redacted(repr(first["input"]))
    return f"setting {dotted} = {given}{where}: {message}"


def _keys(value: Any, *section: str) -> list[str]:
    """Return the keys of a section of a tree."""
    for part in section:
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
