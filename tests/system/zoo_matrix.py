"""``make zoo-matrix``: every model of the zoo trained, converted, served and called; into README.

``python -m tests.system.zoo_matrix [--quick] [NAME ...]``. A row stands in the table only if
tritonclient got, from `farthing serve`, the answers that the manifest promises.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from rich.console import Console

from converter.zoo import ZOO, material
from service import manifest
from service.manifest import Manifest
from tests.system import zoo_forms
from tests.system.servers import Served, farthing, serving

ROOT = Path(__file__).parents[2]
SHELF = ROOT / "build" / "zoo"
BEGIN, END = "<!-- zoo-matrix -->", "<!-- /zoo-matrix -->"
HEAD = (
    "| model | source | route | largest difference | published: speed-up at batch 1 / 8 | refused "
    "| seconds |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """One model that went the whole way."""

    name: str
    file: str
    contract: Manifest
    seconds: float

    def line(self) -> str:
        difference = self.contract.source.get("largest_difference")
        told = "-" if difference is None else f"{difference:.0e}"
        published, refused = [], []
        for variant in self.contract.variants:
            ratios = [variant.figures.get(f"speedup_batch_{rows}") for rows in (1, 8)]
            if not variant.accepted:
                refused.append(variant.name)
            elif None in ratios:
                published.append(variant.name)
            else:
                published.append(f"{variant.name} {ratios[0]:.2f} / {ratios[1]:.2f}")
        return (
            f"| {self.name} | {self.file} | {self.contract.source['route']} | {told} "
            f"| {', '.join(published)} | {', '.join(refused) or '-'} | {self.seconds:.0f} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make zoo-matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    console = Console(width=100)
    rows = []
    for name in options.names or ZOO:
        with console.status(f"{name}: training"):
            made = material.train(f"{material.PREFIX}{name}", quick=options.quick)
        for source in (made.model, *zoo_forms.other_forms(made)):
            with console.status(f"{name}: converting and serving {source.name}"):
                row = went_the_whole_way(made, source)
            console.print(row.line(), markup=False, highlight=False)
            rows.append(row)
    if not options.names and not options.quick:
        write(rows)
        console.print("written into README.md")
    return 0


def went_the_whole_way(made: material.Material, source: Path) -> Row:
    """Convert, serve, and compare tritonclient's answers with the golden ones."""
    begun = time.perf_counter()
    name = made.name if source == made.model else f"{made.name}.{source.suffix or source.name}"
    repository = SHELF / "models" / source.name.replace(".", "-") / made.name
    done = farthing(
        "convert", str(source), "--name", made.name, "--out", str(repository), "--trust",
        "--calibration", str(made.calibration), "--evaluate", str(made.held_out), "--json",
        timeout_s=900,
    )  # fmt: skip
    assert done.returncode == 0, f"{name}: {done.stderr}"
    version = repository / made.name / str(manifest.versions_in(repository / made.name)[-1])
    contract = manifest.load(version)
    for variant in contract.published:
        with serving(repository, "--variant", variant) as server:
            check(server, contract, variant, version)
    return Row(made.name, source.name, contract, time.perf_counter() - begun)


def check(server: Served, contract: Manifest, variant: str, version: Path) -> None:
    """One call with the golden rows, through an independent client."""
    golden = contract.golden
    assert golden is not None
    with np.load(version / golden.file, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    tensors = []
    for spec in contract.inputs:
        rows = arrays[f"in:{spec.name}"]
        rows = rows.astype(np.object_) if spec.datatype == "BYTES" else rows
        tensor = triton.InferInput(spec.name, list(rows.shape), spec.datatype)
        tensor.set_data_from_numpy(rows)
        tensors.append(tensor)
    with triton.InferenceServerClient(server.grpc) as client:
        answer = client.infer(contract.name, tensors)
    for spec in contract.outputs:
        got, wanted = answer.as_numpy(spec.name), arrays[f"out:{spec.name}"]
        if wanted.dtype.kind == "f":
            tolerance = golden.tolerance[variant][spec.name]
            np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance + 1e-6)
        elif variant == "fp32":
            np.testing.assert_array_equal(got, wanted)
        else:  # a class may tip over; how many may is what the gate has bounded
            assert got.shape == wanted.shape


def write(rows: list[Row]) -> None:
    """Put the table between README's two marks."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join([HEAD, *(row.line() for row in rows)])
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
