"""An MLServer runtime that serves an ONNX model with ONNX Runtime, as MLServer's documentation writes one.

It is copied beside the model and runs in MLServer's own environment: nothing of this project is imported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class OnnxModel(MLModel):  # type: ignore[misc]  # of a package that is not installed here
    """The model at `parameters.uri`, on one thread."""

    async def load(self) -> bool:
        """Open the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = Path(__file__).parent / self.settings.parameters.uri
        self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Class probabilities of a batch of images."""
        images = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        scores = self._session.run([self._output], {self._input: images})[0]
        return InferenceResponse(
            model_name=self.name, model_version=self.version, outputs=[NumpyCodec.encode_output("probabilities", scores)]
        )
