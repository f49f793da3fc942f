"""The arguments of every call are checked under test: shapes together, all else by its type."""

from typing import Any, cast

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from raymc.addresses import keep_password
from raymc.metrics.metrics import ScoreTable, checked_table

SCORES, LABELS = np.zeros((2, 3)), np.zeros((2, 3), bool)


def test_shapes_of_one_call_agree() -> None:
    assert checked_table(SCORES, LABELS, None).scores.shape == (2, 3)
    with pytest.raises(TypeCheckError, match="labels"):
        checked_table(SCORES, LABELS[:1], None)
    with pytest.raises(TypeCheckError, match="observed"):
        ScoreTable(SCORES, LABELS, LABELS[:, :1])


def test_other_arguments_have_their_types() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="address"):
        keep_password(cast(Any, 7))
