"""What a person sees of a conversion: the table of its variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from converter import predecessor, speed
from converter.variants import GPU
from service import hardware, opening, tuned
from service.errors import FarthingError
from service.manifest import Manifest, Variant
from service.tuned import Tuned

WIDTH = 100


def show(console: Console, contract: Manifest, entry: Tuned | None = None) -> None:
    """Print a manifest: its variants, its tensors, where it came from, how to do it again.

    Args:
        console: where.
        contract: the manifest.
        entry: what holds here of what was tuned, which wins over what the manifest records.
    """
    table = Table(title=f"{contract.name}: variants", title_justify="left")
    table.add_column("variant")
    batches = {n for v in contract.variants for n in speed.batches_in(v.figures)}
    told = sorted(batches | {*speed.BATCHES})
    ratios = f"speed-up\nbatch {' / '.join(map(str, told))}"
    for heading in ("MB", "accuracy", "agrees", ratios):
        table.add_column(heading, justify="right")
    table.add_column("published, or why not", overflow="fold")
    for variant in contract.variants:
        table.add_row(
            variant.name,
            f"{variant.bytes / 1e6:.2f}" if variant.bytes else "-",
            _percent(variant, "accuracy"),
            _percent(variant, "agreement"),
            _ratios(variant, told),
            escape(variant.reason)
            if variant.accepted
            else f"[red]refused[/]: {escape(variant.reason)}",
        )
    console.print(table)
    for line in _lines(contract, entry):
        console.print(escape(line), highlight=False)


def _lines(contract: Manifest, entry: Tuned | None) -> list[str]:
    lines = []
    for kind, specs in (("takes", contract.inputs), ("gives", contract.outputs)):
        tensors = ", ".join(f"{s.name} {s.datatype} {list(s.shape)}" for s in specs)
        lines.append(f"It {kind} {tensors}, where -1 is free.")
    route = contract.source.get("route")
    if route:
        lines.append(f"Route: {contract.source.get('kind')} by {route}.")
    fallen = contract.source.get("routes_fallen") or {}
    lines += [f"Route {name} fell: {reason}" for name, reason in fallen.items()]
    lines += [f"Note: {note}." for note in contract.source.get("notes") or ()]
    choice = contract.chosen.get(hardware.fingerprint())
    if entry:
        lines.append(
            f"On this hardware with {tuned.counted(entry.cpus, 'CPU')} `farthing serve` takes "
            f"{entry.variant}, as tuned on {entry.date}: {entry.said}."
        )
    elif choice:
        lines.append(f"On this hardware `farthing serve` takes {choice.variant}: {choice.reason}.")
    lines += [
        f"On {mark} `farthing serve` takes {there.variant}: {there.reason}."
        for mark, there in contract.chosen.items()
        if predecessor.of_gpu(mark)
    ]
    lines += [
        f"What {variant.name} is worth shows on a GPU: convert there with --device cuda."
        for variant in contract.variants
        if variant.accepted and variant.device == GPU and predecessor.JUDGED_ON not in variant.made
    ]
    if contract.reproduce:
        lines.append(f"Again: {contract.reproduce}")
    return lines


def _percent(variant: Variant, figure: str) -> str:
    value = variant.figures.get(figure)
    return "-" if value is None else f"{100 * value:.2f} %"


def _ratios(variant: Variant, batches: Sequence[int]) -> str:
    ratios = [variant.figures.get(f"speedup_batch_{batch}") for batch in batches]
    return " / ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)


def held(directory: Path, contract: Manifest) -> tuple[Tuned | None, list[str]]:
    """What `farthing serve` takes here of what was tuned; and sentences on what it does not."""
    try:
        variants = [contract.variant(name) for name in contract.published]
        here = opening.tuned_here(directory, variants)
        entries = tuned.read(directory)
    except FarthingError as error:
        return None, [str(error)]
    found = []
    for entry in entries:
        if entry == here.entry:
            continue
        ours = (entry.fingerprint, entry.cpus) == (hardware.fingerprint(), hardware.cpus())
        where = f"{entry.fingerprint} with {tuned.units(entry.fingerprint, entry.cpus)}"
        text = f"Tuned on {entry.date} for {'this hardware' if ours else where}: {entry.variant}"
        text += f", {entry.said}"
        if ours and here.why:
            text += f"; `farthing serve` does not take it, since {here.why}; tune again"
        found.append(f"{text}.")
    return here.entry, found


def show_findings(console: Console, name: str, path: Path) -> None:
    """Print why one variant's graph is not faster, if anything stands in its way."""
    from converter import diagnosis

    for finding in diagnosis.diagnose(path):
        text = f"{name}: {finding.count} x {finding.what}: {finding.cure}"
        console.print(escape(text), highlight=False)
