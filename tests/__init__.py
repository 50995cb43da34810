"""Tests; a package, because tf2onnx installs a top-level package of the same name."""
