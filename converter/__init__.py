"""Trained model -> verified ONNX variants, published into a model repository."""
