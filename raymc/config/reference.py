"""The tables of all settings that `raymc config --reference` prints, made from the classes."""

import dataclasses
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter

from raymc.config.formats import MAKERS
from raymc.config.search import Range
from raymc.config.tree import Config

_SIGNS = {Ge: "≥ {0.ge}", Gt: "> {0.gt}", Le: "≤ {0.le}", Lt: "< {0.lt}"}


def config_reference() -> str:
    """Return every setting with its default, range and meaning, as Markdown tables."""
    parts = []
    for section in dataclasses.fields(Config):
        parts.append(_section(section.name, type(getattr(Config(), section.name))))
    for kind in MAKERS.values():
        parts.append(_section("data.make", kind))
    parts.append(_section("search.space.PATH", Range))
    return "\n".join(parts)


def _section(path: str, section: Any) -> str:
    recipe = section.__pydantic_fields__.get("name") if path == "data.make" else None
    named = f" with name `{recipe.default}`" if recipe else ""
    title = f"#### `{path}`{named}: {section.__doc__.splitlines()[0]}\n"
    lines = [title, "| setting | default | range | meaning |", "|---|---|---|---|"]
    for name, field in section.__pydantic_fields__.items():
        if name != "make":
            shown = f"`{_default(field)}`"
            lines.append(f"| `{name}` | {shown} | {_range(field)} | {field.description} |")
    return "\n".join(lines) + "\n"


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = TypeAdapter(Any).dump_python(field.get_default(call_default_factory=True))
    if isinstance(value, dict):
        return ", ".join(value)
    return _shown(value)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _range(field: Any) -> str:
    choices = [value for value in get_args(field.annotation) if isinstance(value, str | bool)]
    if choices:
        return ", ".join(f"`{_shown(choice)}`" for choice in choices)
    bounds = [
        sign.format(bound)
        for bound in field.metadata
        for kind, sign in _SIGNS.items()
        if isinstance(bound, kind)
    ]
    return ", ".join(bounds)
