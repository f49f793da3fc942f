"""What MLflow runs to serve a bundle: it imports this module and calls `_load_pyfunc`.

Top layer. A logged model holds the bundle's own files and this module's name, which therefore
stays; no code and no pickle. `mlflow.pyfunc.load_model` and `mlflow models serve` take it.
"""

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from raymc.errors import BundleError
from raymc.training.bundle import Bundle, load_bundle, tokens_of_frames


class BundleModel:
    """Scores clips given as a frame with a column of nested lists [tokens][dim] a modality."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Return a row a clip, of the same index: `labels`, and for every class `score.LABEL`.

        A calibrated bundle adds `probability.LABEL`.

        Args:
            model_input: A column a modality, None where a clip lacks it.

        Raises:
            MlflowException: A column is missing, or tokens don't have the modality's dim; a
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
    """Load the bundle that was logged with the model; MLflow asks for this name."""
    return BundleModel(load_bundle(path))
