"""The tensors that ``config.pbtxt`` names, and whether the model has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TypeVar

from service.configfields import DATATYPE_NAMES, unusable
from service.manifest import TensorSpec
from service.proto import inference_pb2 as pb

Shapes = Mapping[str, tuple[int, ...]]
Tensor = TypeVar("Tensor", pb.ModelInput, pb.ModelOutput)

_MOST_ELEMENTS = 2**63 - 1


def specs(kind: str, tensors: Sequence[Tensor], *, batched: bool) -> tuple[TensorSpec, ...] | None:
    """The tensors as callers send them, with the batch dimension; None if none are named.

    Args:
        kind: ``input`` or ``output``.
        tensors: of the configuration.
        batched: whether ``dims`` lack the batch dimension.

    Raises:
        ModelUnusable: a name, datatype or dimension is missing or impossible, or a name is twice.
    """
    found: dict[str, TensorSpec] = {}
    for tensor in tensors:
        if not tensor.name:
            raise unusable(f"an {kind} has no name")
        where = f"{kind} '{tensor.name}'"
        if tensor.name in found:
            raise unusable(f"{where} is there twice")
        if tensor.data_type not in DATATYPE_NAMES:
            raise unusable(f"{where} has no data_type that this server knows")
        _check_dims(where, tensor.dims)
        # Of a batch too: requests share a run only with those that give the same inputs.
        optional = isinstance(tensor, pb.ModelInput) and tensor.optional
        if isinstance(tensor, pb.ModelInput) and tensor.format and len(tensor.dims) != 3:
            raise unusable(
                f"{where} has a format for images and {len(tensor.dims)} dims; it needs 3"
            )
        shape = ((-1,) if batched else ()) + tuple(tensor.dims)
        found[tensor.name] = TensorSpec(
            tensor.name, DATATYPE_NAMES[tensor.data_type], shape, optional
        )
    return tuple(found.values()) or None


def _check_dims(where: str, dims: Sequence[int]) -> None:
    if not dims:
        raise unusable(f"{where} has no dims")
    for size in dims:
        if size < 1 and size != -1:
            raise unusable(f"{where} has a dimension {size}; it takes 1 or more, or -1 for any")
    if prod(map(abs, dims)) > _MOST_ELEMENTS:
        raise unusable(f"{where} has more elements than any memory holds")


def reshapes(kind: str, tensors: Sequence[Tensor], *, batched: bool) -> Iterator[
    tuple[str, tuple[int, ...]]
]:  # fmt: skip
    """Name and the model's own shape, with the batch dimension, of each reshaped tensor.

    Raises:
        ModelUnusable: the two shapes do not always have the same number of elements: between the
            free dimensions, of which there must be as many, the others multiply to the same.
    """
    for tensor in tensors:
        if tensor.HasField("reshape"):
            where = f"{kind} '{tensor.name}'"
            if tensor.reshape.shape:
                _check_dims(f"the reshape of {where}", tensor.reshape.shape)
            if _runs(tensor.dims) != _runs(tensor.reshape.shape):
                raise unusable(
                    f"{where} has dims {list(tensor.dims)} and a reshape to "
                    f"{list(tensor.reshape.shape)}, which hold different numbers of elements"
                )
            yield tensor.name, ((-1,) if batched else ()) + tuple(tensor.reshape.shape)


def _runs(dims: Sequence[int]) -> list[int]:
    """Elements before, between and behind the free dimensions."""
    runs = [1]
    for size in dims:
        if size == -1:
            runs.append(1)
        else:
            runs[-1] *= size
    return runs


def settled(
    kind: str,
    wanted: tuple[TensorSpec, ...],
    has: Sequence[TensorSpec],
    own_shapes: Shapes,
) -> tuple[TensorSpec, ...]:
    """The tensors as callers send them, where the model has them all.

    Args:
        kind: ``input`` or ``output``.
        wanted: of the configuration; it may fix dimensions that the model leaves free.
        has: the model's; of inputs, those with a value of their own are optional.
        own_shapes: the model's shape of each reshaped tensor.

    Raises:
        ModelUnusable: they differ, naming how.
    """
    known = {spec.name: spec for spec in has}
    for spec in wanted:
        where = f"{kind} '{spec.name}'"
        own = known.get(spec.name)
        if own is None:
            raise unusable(f"the model has no {where}; it has {', '.join(known)}")
        if spec.datatype != own.datatype:
            raise unusable(f"{where} is said to be {spec.datatype}; the model's is {own.datatype}")
        if spec.optional and not own.optional:
            raise unusable(f"{where} is said to be optional; the model has no value for it")
        shape = own_shapes.get(spec.name, spec.shape)
        if not _fits(shape, own.shape) and not is_scalar(spec, own):
            raise unusable(
                f"{where} is said to have shape {list(shape)}; the model's is {list(own.shape)}"
            )
    said = {spec.name for spec in wanted}
    missing = [spec.name for spec in has if spec.name not in said and not spec.optional]
    if kind == "input" and missing:
        raise unusable(f"input '{missing[0]}' is left out; the model needs it")
    return tuple(
        replace(spec, shape=())
        if is_scalar(spec, known[spec.name]) and spec.name not in own_shapes
        else spec
        for spec in wanted
    )


def is_scalar(spec: TensorSpec, own: TensorSpec) -> bool:
    """Whether the model's is a scalar: Triton's dims can't be empty, so it is said to be ones."""
    return own.shape == () and set(spec.shape) == {1}


def _fits(said: tuple[int, ...], own: tuple[int, ...]) -> bool:
    """Whether all that is said to come suits the model."""
    pairs = zip(said, own, strict=False)
    return len(said) == len(own) and all(o in (-1, s) for s, o in pairs)
