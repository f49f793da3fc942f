"""The arguments of every call are checked under test: shapes together, all else by its type."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import shapes
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError, jaxtyped

from raymc.addresses import keep_password
from raymc.metrics.metrics import ScoreTable, checked_table

SCORES, LABELS = np.zeros((2, 3)), np.zeros((2, 3), bool)


def test_shapes_of_one_call_agree() -> None:
    assert checked_table(SCORES, LABELS, None).scores.shape == (2, 3)
    with pytest.raises(BeartypeCallHintViolation, match="parameter labels"):
        checked_table(SCORES, LABELS[:1], None)
    with pytest.raises(BeartypeCallHintViolation, match="parameter observed"):
        ScoreTable(SCORES, LABELS, LABELS[:, :1])


def test_what_a_call_returns_agrees_with_its_arguments() -> None:
    def first(x: Float[np.ndarray, " N"], count: int) -> Float[np.ndarray, " N"]:
        return x[:count]

    def firsts(x: Float[np.ndarray, " N"], count: int) -> Iterator[Float[np.ndarray, " N"]]:
        yield x[:count]

    checked = jaxtyped(typechecker=beartype)
    assert len(checked(first)(SCORES[0], 3)) == len(*checked(firsts)(SCORES[0], 3)) == 3
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        checked(first)(SCORES[0], 2)
    with pytest.raises(TypeCheckError, match=r"parameters of .*firsts"):
        checked(firsts)(SCORES, 2)


def test_the_first_calls_of_each_test_are_checked() -> None:
    def total(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> int:
        return len(x) + len(y)

    checked = jaxtyped(typechecker=beartype)(total)
    for _ in range(2):
        shapes.check_anew()
        for _ in range(shapes.CALLS):
            with pytest.raises(BeartypeCallHintViolation, match="parameter y"):
                checked(SCORES[0], SCORES[0, :1])
        assert checked(SCORES[0], SCORES[0, :1]) == 4


def test_other_arguments_have_their_types() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="address"):
        keep_password(cast(Any, 7))
