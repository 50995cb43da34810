"""A runtime of ONNX Runtime for MLServer; it runs in MLServer's environment, not in ours."""

from __future__ import annotations

import onnxruntime
from mlserver import MLModel, types  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]


class OrtRuntime(MLModel):  # type: ignore[misc]  # without types here
    """One graph with one input and one output."""

    async def load(self) -> bool:
        """Load the graph that the settings name, with as many threads as they say."""
        parameters = self.settings.parameters
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = parameters.extra["threads"]
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Run the graph on the rows of one request."""
        tensor = payload.inputs[0]
        rows = self._session.run(None, {tensor.name: NumpyCodec.decode_input(tensor)})[0]
        output = NumpyCodec.encode_output(self._session.get_outputs()[0].name, rows)
        return types.InferenceResponse(model_name=self.name, outputs=[output])
