"""Makes `--jaxtyping-packages` cheap: imported before raymc, it says how functions are checked.

jaxtyping binds the arguments of every call of every function to its signature, twice, and checks
their shapes before the call and again after it, for the sake of its messages. That took half the
time of the tests of media, and a tenth of training's. Here beartype alone checks what is given and
what is returned; if a signature has shapes, while jaxtyping remembers the sizes of the axes. Of a
function with shapes, the first calls in each test are checked; in a training, more are like them.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ForwardRef, get_args

import jaxtyping

CALLS = 20  # of a function that are checked in each test
_counts: list[list[int]] = []  # of each function, in one test
_jaxtyped: Callable[..., Any] = jaxtyping.jaxtyped


def check_anew() -> None:
    """Begin to count calls, as every test does."""
    for count in _counts:
        count[0] = 0


def _has_shape(annotation: Any) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    return any(map(_has_shape, parts))


def _has_name(annotation: Any) -> bool:
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    return isinstance(annotation, str | ForwardRef) or any(map(_has_name, parts))


def _with_shapes(function: Callable[..., Any], typechecker: Callable[..., Any]) -> Any:
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        return _jaxtyped(function, typechecker=typechecker)  # it runs after the call has returned
    checked = typechecker(function)

    def check(*arguments: Any, **named: Any) -> Any:
        with _jaxtyped("context"):
            return checked(*arguments, **named)

    return _at_first(function, check)


def _at_first(function: Callable[..., Any], check: Callable[..., Any]) -> Any:
    """Return the function, of which some calls are checked."""
    count = [0]
    _counts.append(count)

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if count[0] == CALLS:
            return function(*arguments, **named)
        count[0] += 1
        return check(*arguments, **named)

    return call


def _checked(*, typechecker: Callable[..., Any]) -> Callable[..., Any]:
    def check(item: Any) -> Any:
        if inspect.isclass(item):
            if dataclasses.is_dataclass(item):
                item.__init__ = check(item.__init__)
            return item
        annotations = inspect.get_annotations(item).values()
        if any(map(_has_name, annotations)):  # perhaps of what only type checkers import
            return _jaxtyped(item, typechecker=typechecker)
        if any(map(_has_shape, annotations)):
            return _with_shapes(item, typechecker)
        return typechecker(item)

    return check


jaxtyping.jaxtyped = _checked
