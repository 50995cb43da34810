"""fp32 ONNX -> cheaper candidates, as ladders. What they are worth is decided elsewhere.

Each ladder requires a checked fp32 graph; it writes files into the workshop and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# First: it turns ONNX Runtime's telemetry off before anything imports onnxruntime.
import service.session  # noqa: F401  # isort: skip

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from converter import equalization, graphs, quantize, ranges, regions
from converter.pruning import cutting
from converter.quantize import Static
from converter.samples import Samples
from converter.search import Candidate, Ladder
from service.errors import FarthingError

CPU, GPU = "cpu", "gpu"
# Below this there is next to nothing to quantize.
_LEAST_WEIGHT_BYTES = 100_000
# How many excluded regions are tried in int8 again, the largest first.
_PRUNE_BACK = 4


class VariantFailed(FarthingError):
    """A variant of which no candidate could be built, with the reason."""


@dataclass
class Workshop:
    """What candidates are made of.

    Attributes:
        reference: the fp32 graph.
        directory: where they are written.
        rows: calibration rows that set ranges; None where there are none.
        seen: all calibration rows, those for the selection too.
        fraction: share of the channels that ``pruned`` cuts.
        pruned: the pruned candidate, if it did well on the selection rows.
    """

    reference: Path
    directory: Path
    rows: Samples | None
    fraction: float = 0.3
    pruned: Path | None = None
    seen: Samples | None = None
    _made: int = 0

    def file(self, kind: str) -> Path:
        """A new file's name."""
        self._made += 1
        return self.directory / f"{kind}.{self._made}.onnx"

    def calibration(self) -> Samples:
        """The calibration rows.

        Raises:
            VariantFailed: there are none.
        """
        if self.rows is None:
            raise VariantFailed("give rows for its ranges with --calibration")
        return self.rows


@dataclass(frozen=True)
class Build:
    """How to make one variant.

    Attributes:
        ladder: candidates, cheapest repair first.
        device: where it is meant to be fast; speed is only gated on that device.
        needs: what beside held-out rows it cannot be made without, for the user.
    """

    ladder: Callable[[Workshop], Ladder]
    device: str = CPU
    needs: str = ""


def fp16(shop: Workshop) -> Ladder:
    """Weights and arithmetic in half precision; inputs and outputs stay as they are.

    Nodes that touch a number beyond half precision's range on real rows stay in fp32: on a CPU the
    overflow would not show, since ORT drops the inner casts there.
    """
    model = onnx.load(shop.reference)
    quantize.name_nodes(model)
    named = shop.file("named")
    graphs.write(model, named)
    rows = shop.seen or shop.calibration()
    largest = ranges.scan(named, rows, max_rows=len(rows))
    unsafe = ranges.unsafe_nodes(named, largest)
    half = convert_float_to_float16(model, keep_io_types=True, node_block_list=unsafe)
    # The tool casts what it was told to keep to fp16 and back on every edge.
    ranges.join_fp32(half, unsafe)
    target = shop.file("fp16")
    graphs.write(half, target)
    how = f"{len(unsafe)} nodes beyond fp16's range kept in fp32" if unsafe else "all in fp16"
    yield Candidate(target, how, tuple(unsafe), ranges.digest(largest))


def int8_dynamic(shop: Workshop) -> Ladder:
    """int8 weights for matrix products; regions in fp32 where that is not enough."""
    prepared = quantize.prepare(shop.reference, shop.file("prepared"))
    _check_worth(prepared, quantize.DYNAMIC_OPERATORS)

    def write(target: Path, only: Sequence[str], without: Sequence[str]) -> str:
        quantize.write_dynamic(prepared, target, only=only, without=without)
        return ""

    yield from _excluding(shop, prepared, write, "dynamic", kinds=quantize.DYNAMIC_OPERATORS)


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


def _static(shop: Workshop, source: Path) -> Ladder:
    """Per channel MinMax; equalized; by percentile; then regions in fp32."""
    prepared = quantize.prepare(source, shop.file("prepared"))
    _check_worth(prepared, ())
    best = Static(prepared, shop.calibration())
    target = shop.file("static")
    best.write(target)
    score = yield Candidate(target, "per channel, MinMax", ranges_sha256=best.ranges_sha256())
    how = "per channel, MinMax"
    model = onnx.load(prepared)
    tries: list[tuple[str, Callable[[], Static]]] = []
    if equalization.equalize(model):
        equal = shop.file("equalized")
        graphs.write(model, equal)
        tries.append(("equalized, MinMax", lambda: Static(equal, shop.calibration())))
    tries.append(("Percentile", lambda: Static(best.prepared, shop.calibration(), "Percentile")))
    for name, make in tries:
        static, target = make(), shop.file("static")
        static.write(target)
        tried = yield Candidate(target, name, ranges_sha256=static.ranges_sha256())
        if tried.distance < score.distance:
            best, score, how = static, tried, name

    def write(target: Path, only: Sequence[str], without: Sequence[str]) -> str:
        best.write(target, only=only, without=without)
        return best.ranges_sha256()

    yield from _excluding(shop, best.prepared, write, how, tried=True)


Write = Callable[[Path, Sequence[str], Sequence[str]], str]


def _excluding(
    shop: Workshop,
    prepared: Path,
    write: Write,
    how: str,
    *,
    tried: bool = False,
    kinds: Sequence[str] = regions.PRODUCTS,
) -> Ladder:
    """Leave as few regions in fp32 as it takes.

    Regions are ranked by quantizing one at a time and scoring the change of the output (8 trials to
    a repair, where ranking by the error of single tensors took 14); then the number of the worst
    that have to stay in fp32 is doubled until it does, and bisected; then each is tried in int8
    again, the largest first.

    Args:
        shop: where to write.
        prepared: the graph.
        write: (target, only these nodes, without these nodes) -> digest of the ranges.
        how: what to call it.
        tried: whether the graph without exclusions was tried already.
        kinds: operators that are quantized; a region begins with one.
    """

    def candidate(excluded: Sequence[regions.Region], *, step: bool = False) -> Candidate:
        target = shop.file("static")
        digest = write(target, (), [node for region in excluded for node in region.nodes])
        names = tuple(region.name for region in excluded)
        text = f"{how}, {len(names)} regions in fp32" if names else how
        return Candidate(target, text, names, digest, step=step)

    if not tried:
        yield candidate(())
    found = regions.regions(onnx.load(prepared), kinds)
    harm: list[tuple[float, regions.Region]] = []
    for region in found:
        target = shop.file("probe")
        write(target, region.nodes, ())
        score = yield Candidate(target, f"ranking regions: {region.name}", probe=True)
        harm.append((score.distance, region))
        target.unlink()
    ranked = [region for _, region in sorted(harm, key=lambda pair: -pair[0])]
    low, high = 0, 1
    while high < len(ranked):
        score = yield candidate(ranked[:high], step=True)
        if score.good:
            break
        low, high = high, 2 * high
    high = min(high, len(ranked))
    while high - low > 1:
        middle = (low + high) // 2
        score = yield candidate(ranked[:middle], step=True)
        low, high = (low, middle) if score.good else (middle, high)
    kept = ranked[:high]
    for region in sorted(kept, key=lambda region: -region.work)[:_PRUNE_BACK]:
        if len(kept) > 1:
            fewer = [other for other in kept if other is not region]
            score = yield candidate(fewer, step=True)
            kept = fewer if score.good else kept
    yield candidate(kept)


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
