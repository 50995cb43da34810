"""Structured channel pruning of an ONNX graph: ``cutting.prune`` is the door.

Whole channels are cut, so that ONNX Runtime gets faster without a sparse kernel, and what is left
is fitted again by least squares; nothing is trained.
"""
