"""The gRPC server: verified ONNX variants behind the wire that Triton's clients speak."""
