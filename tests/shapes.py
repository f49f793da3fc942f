"""Makes `--jaxtyping-packages` cheap: imported before raymc, it says how functions are checked.

jaxtyping binds the arguments of every call of every function to its signature, twice, which took
half the time of the tests of media. Only signatures with shapes need that; beartype alone checks
the types of the others.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping

_with_shapes: Callable[..., Any] = jaxtyping.jaxtyped


def _has_shape(annotation: Any) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    return isinstance(annotation, str) or any(map(_has_shape, parts))


def _checked(*, typechecker: Callable[..., Any]) -> Callable[..., Any]:
    def check(item: Any) -> Any:
        if inspect.isclass(item):
            if dataclasses.is_dataclass(item):
                item.__init__ = check(item.__init__)
            return item
        if any(map(_has_shape, inspect.get_annotations(item).values())):
            return _with_shapes(item, typechecker=typechecker)
        return typechecker(item)

    return check


jaxtyping.jaxtyped = _checked
