"""fp32 ONNX -> cheaper candidates, as ladders. What they are worth is decided elsewhere.

Each ladder requires a checked fp32 graph; it writes files into the workshop and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from converter import equalization, graphs, quantize, regions
from converter.excluding import excluding
from converter.halves import fp16
from converter.pruning import cutting
from converter.quantize import Static
from converter.search import Candidate, Ladder
from converter.workshop import VariantFailed, Workshop
from service import devices
from service.devices import Device

CPU, GPU = "cpu", "gpu"
# Below this there is next to nothing to quantize.
_LEAST_WEIGHT_BYTES = 100_000


@dataclass(frozen=True)
class Build:
    """How to make one variant.

    Attributes:
        ladder: candidates, cheapest repair first.
        device: where it is meant to be fast, if it is judged on a CPU: speed is not gated there
            where that is elsewhere.
        needs: what beside held-out rows it cannot be made without, for the user.
    """

    ladder: Callable[[Workshop], Ladder]
    device: str = CPU
    needs: str = ""


def int8_dynamic(shop: Workshop) -> Ladder:
    """int8 weights for matrix products; regions in fp32 where that is not enough."""
    prepared = quantize.prepare(shop.reference, shop.file("prepared"))
    _check_worth(prepared, quantize.DYNAMIC_OPERATORS)

    def write(target: Path, only: Sequence[str], without: Sequence[str]) -> str:
        quantize.write_dynamic(prepared, target, only=only, without=without)
        return ""

    target = shop.file("static")
    write(target, (), ())
    yield Candidate(target, "dynamic")
    found = regions.regions(onnx.load(prepared), quantize.DYNAMIC_OPERATORS)
    yield from excluding(shop, found, write, "dynamic")


def int8_static(shop: Workshop) -> Ladder:
    """int8 weights and activations, with ranges from calibration rows."""
    yield from _static(shop, shop.reference)


def pruned(shop: Workshop) -> Ladder:
    """Whole channels cut out, and the others fitted again; fewer of them until it holds."""
    before = 0
    for share in (shop.fraction, shop.fraction * 2 / 3, shop.fraction / 3):
        target = shop.file("pruned")
        facts = cutting.prune(shop.reference, target, shop.calibration(), fraction=share)
        if facts.channels_after != before:  # widths are rounded, often to the same
            yield Candidate(target, str(facts))
        before = facts.channels_after


def pruned_int8(shop: Workshop) -> Ladder:
    """The pruned variant, quantized.

    Raises:
        VariantFailed: there is no pruned variant to start from.
    """
    if shop.pruned is None:
        raise VariantFailed(
            "it starts from the variant pruned, which does not do well on the calibration rows"
        )
    yield from _static(shop, shop.pruned)


VARIANTS: dict[str, Build] = {
    "fp16": Build(fp16, device=GPU, needs="rows for the scan of its range"),
    "int8-dynamic": Build(int8_dynamic),
    "int8-static": Build(int8_static, needs="rows for its ranges"),
    "pruned": Build(pruned, needs="rows to fit it again"),
    "pruned-int8": Build(pruned_int8, needs="rows for its ranges"),
}


def refused(name: str, device: Device) -> str:
    """Why a variant is not even built for a device, and what to do; empty where it is."""
    if device.kind == devices.CUDA and "int8" in name:
        return (
            "the CUDA provider has no int8 kernels: its QDQ nodes would be computed in float with "
            "conversions around them, or fall back to the CPU (onnxruntime issues 12229 and "
            "24807); convert with --device tensorrt, or with --device cpu for CPUs"
        )
    if device.kind == devices.TENSORRT and name == "int8-dynamic":
        return (
            "TensorRT takes int8 with ranges that are fixed beforehand, not set by each batch; "
            "that is int8-static"
        )
    return ""


def meant_for(name: str, device: Device) -> str:
    """Where a variant that is judged on this device is meant to be fast."""
    if name not in VARIANTS:
        return CPU
    return GPU if device.is_gpu else VARIANTS[name].device


def _static(shop: Workshop, source: Path) -> Ladder:
    """Per channel MinMax; equalized; by percentile; then regions in fp32."""

    def static_of(prepared: Path, calibrator: str = "MinMax") -> Static:
        symmetric = shop.device.kind == devices.TENSORRT
        return Static(prepared, shop.calibration(), calibrator, symmetric=symmetric)

    prepared = quantize.prepare(source, shop.file("prepared"))
    _check_worth(prepared, ())
    best = static_of(prepared)
    target = shop.file("static")
    best.write(target)
    score = yield Candidate(target, "per channel, MinMax", ranges_sha256=best.ranges_sha256())
    how = "per channel, MinMax"
    model = onnx.load(prepared)
    tries: list[tuple[str, Callable[[], Static]]] = []
    if equalization.equalize(model):
        equal = shop.file("equalized")
        graphs.write(model, equal)
        tries.append(("equalized, MinMax", lambda: static_of(equal)))
    tries.append(("Percentile", lambda: static_of(best.prepared, "Percentile")))
    for name, make in tries:
        static, target = make(), shop.file("static")
        static.write(target)
        tried = yield Candidate(target, name, ranges_sha256=static.ranges_sha256())
        if tried.distance < score.distance:
            best, score, how = static, tried, name

    def write(target: Path, only: Sequence[str], without: Sequence[str]) -> str:
        best.write(target, only=only, without=without)
        return best.ranges_sha256()

    found = regions.regions(onnx.load(best.prepared))
    yield from excluding(shop, found, write, how)


def _check_worth(prepared: Path, operators: Sequence[str]) -> None:
    """Refuse to quantize what holds hardly any weights, or no operator that would be.

    Raises:
        VariantFailed: with the size.
    """
    model = onnx.load(prepared)
    weights = sum(len(t.raw_data) or 4 * len(t.float_data) for t in model.graph.initializer)
    if weights < _LEAST_WEIGHT_BYTES:
        raise VariantFailed(
            f"its weights have {weights / 1e3:.0f} kB, too little to gain anything from int8"
        )
    if operators and not any(node.op_type in operators for node in model.graph.node):
        raise VariantFailed(f"the graph has none of {', '.join(operators)}, which it quantizes")
