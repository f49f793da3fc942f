"""Types are checked under test, and shapes only in functions that have one.

`--jaxtyping-packages` in pyproject.toml makes jaxtyping decorate every function of raymc. Its
memory of axes costs more than most of them, so those without a shape get beartype alone, unless
an annotation is a name that only the reader of types imports, which beartype refuses.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ForwardRef, get_args

import jaxtyping
from jaxtyping import AbstractArray, _decorator

_with_shapes = _decorator.jaxtyped


def _checked(what: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Decorate a function, a method of any kind or a dataclass, as `jaxtyped` does."""
    if what is None:
        return partial(_checked, typechecker=typechecker)
    if inspect.isfunction(what) and not _needs_jaxtyping(what.__annotations__.values()):
        return typechecker(what)
    return _with_shapes(what, typechecker=typechecker)


def _needs_jaxtyping(annotations: Iterable[Any]) -> bool:
    return any(
        isinstance(each, str | ForwardRef)
        or (inspect.isclass(each) and issubclass(each, AbstractArray))
        or _needs_jaxtyping(each if isinstance(each, list) else get_args(each))
        for each in annotations
    )


jaxtyping.jaxtyped = _decorator.jaxtyped = _checked
