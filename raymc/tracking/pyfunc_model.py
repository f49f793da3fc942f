"""Serves a bundle through MLflow, which imports this module and calls `_load_pyfunc`.

A logged model holds the bundle's files and the name of this module, and no code or pickle, so the
module can't be renamed. `mlflow.pyfunc.load_model` and `mlflow models serve` use it.
"""

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from raymc.errors import BundleError
from raymc.training.bundle import Bundle, load_bundle, tokens_of_frames


class BundleModel:
    """Scores clips of a data frame with a column of nested lists [tokens][dim] per modality."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Return a row per clip with the same index: `labels`, and `score.LABEL` for every class.

        A calibrated bundle adds `probability.LABEL`. The input has a column per modality, None
        where a clip lacks it.

        Raises:
            MlflowException: A column is missing, or tokens don't have the modality's dim. A
                server answers with its message.
        """
        columns = {str(name): model_input[name].tolist() for name in model_input.columns}
        try:
            tokens = tokens_of_frames(columns, self.bundle.modalities)
        except BundleError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        scores = self.bundle.score_tokens(tokens)
        parts = {"score": scores}
        if self.bundle.calibration is not None:
            parts["probability"] = self.bundle.probabilities(scores)
        names = [f"{part}.{name}" for part in parts for name in self.bundle.vocabulary.names]
        columns = np.hstack(list(parts.values()))
        result = pd.DataFrame(columns, columns=names, index=model_input.index)
        result.insert(0, "labels", self.bundle.labels_above(scores))
        return result


def _load_pyfunc(path: str) -> BundleModel:
    """Load the bundle that was logged with a model. MLflow looks for this name."""
    return BundleModel(load_bundle(path))
