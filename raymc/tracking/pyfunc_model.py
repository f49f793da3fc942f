"""Serves a bundle through MLflow, which imports this module and calls `_load_pyfunc`.

A logged model holds the bundle's files and the name of this module, and no code or pickle, so the
module can't be renamed. `mlflow.pyfunc.load_model` and `mlflow models serve` use it.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException

from raymc.errors import BundleError, RaymcError
from raymc.evaluation.media import plan_of, score_media
from raymc.features.clips import Source
from raymc.features.extraction import FILES_HERE, ExtractPlan
from raymc.training.bundle import Bundle, load_bundle, tokens_of_frames

PATH, START, END = MEDIA = ("path", "start", "end")  # columns of a frame that names videos


class BundleModel:
    """Scores clips of a data frame: of videos, or given by their features.

    Videos have a column `path`, and where only a part is meant, `start` and `end` in seconds.
    Features are a column of nested lists [tokens][dim] per modality, None where a clip lacks it.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @cached_property
    def _plan(self) -> ExtractPlan:
        return plan_of(self.bundle)

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Return a row per clip with the index of its input: `labels`, and `score.LABEL` for each.

        A calibrated bundle adds `probability.LABEL`. A video may have several clips; its rows also
        have `path`, `start`, `end` and `error`: what could not be read, which has no labels.

        Raises:
            MlflowException: A column is missing, tokens don't have the modality's dim, or the
                bundle doesn't say how to make features of videos. A server answers with its
                message.
        """
        try:
            if PATH in model_input and PATH not in {one.name for one in self.bundle.modalities}:
                return self._of_videos(model_input)
            return self._of_features(model_input)
        except RaymcError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _of_videos(self, frame: pd.DataFrame) -> pd.DataFrame:
        sources, plan, tables = list(_sources(frame)), self._plan, []
        for first in range(0, len(sources), FILES_HERE):  # so few that Ray is not started for them
            few = sources[first : first + FILES_HERE]
            scored = score_media(self.bundle, few, plan, first=0, listener=lambda progress: None)
            tables += [table for _, table in scored]
        if not tables:
            return pd.DataFrame()
        result = pa.concat_tables(tables).to_pandas()
        result["labels"] = [None if names is None else [*names] for names in result["labels"]]
        result.index = frame.index[[int(name.partition("@")[0]) for name in result.pop("id")]]
        return result.rename(columns={"start_seconds": START, "end_seconds": END})

    def _of_features(self, frame: pd.DataFrame) -> pd.DataFrame:
        columns = {str(name): frame[name].tolist() for name in frame.columns}
        scores = self.bundle.score_tokens(tokens_of_frames(columns, self.bundle.modalities))
        parts = {"score": scores}
        if self.bundle.calibration is not None:
            parts["probability"] = self.bundle.probabilities(scores)
        names = [f"{part}.{name}" for part in parts for name in self.bundle.vocabulary.names]
        result = pd.DataFrame(np.hstack(list(parts.values())), columns=names, index=frame.index)
        result.insert(0, "labels", self.bundle.labels_above(scores))
        return result


def _sources(frame: pd.DataFrame) -> Iterator[Source]:
    """Yield the videos, each with its place as its id."""
    for place, row in enumerate(frame.reindex(columns=[*MEDIA]).itertuples(index=False)):
        path, start, end = row
        if not isinstance(path, str) or not path:
            raise BundleError(f"row {place}: path is {path!r}; expected the path of a video")
        times = _seconds(place, START, start) or 0.0, _seconds(place, END, end)
        yield Source(path=path, id=str(place), start_seconds=times[0], end_seconds=times[1])


def _seconds(place: int, name: str, value: Any) -> float | None:
    """Return a time, or None if it is not given."""
    if value is None or value != value:
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise BundleError(f"row {place}: {name} is {value!r}; expected seconds") from error


def _load_pyfunc(path: str) -> BundleModel:
    """Load the bundle that was logged with a model. MLflow looks for this name."""
    return BundleModel(load_bundle(path))
