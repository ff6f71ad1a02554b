"""MLflow's python_function of a registered model: `mlflow models predict`, `mlflow.pyfunc.load_model`.

Frames of one video, in time: an array (N, H, W, 3) of RGB, or a frame of pandas whose column `path` names pictures.
Masks come as class indices, an array (N, H, W), or a list where pictures have several sizes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.common.errors import UsageError
from harness.data.pictures import read_image
from harness.tools import predict


def _load_pyfunc(path: str, model_config: object = None) -> "Masks":
    del model_config
    return Masks(Path(path))


class Masks:
    """A training at work; each call is a video of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def predict(self, model_input: Any, params: object = None) -> Any:
        """Return the masks of frames. Raise UsageError for what is neither of the two forms."""
        del params
        model = predict.load([self.folder], 0)
        masks = [predict.segment(model, frame, 0) for frame in frames(model_input)]
        return np.stack(masks) if len({mask.shape for mask in masks}) == 1 else masks


def frames(model_input: Any) -> list[NDArray[np.uint8]]:
    """Return the frames (H, W, 3) of an input."""
    if isinstance(model_input, pd.DataFrame):
        if "path" not in model_input:
            raise UsageError("a frame of pandas needs a column 'path', of pictures in time")
        return [read_image(Path(str(path))) for path in model_input["path"]]
    array = np.asarray(model_input)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise UsageError(f"frames are (N, H, W, 3) of whole numbers 0 to 255, not {array.shape} of {array.dtype}")
    return list(array.astype(np.uint8))
