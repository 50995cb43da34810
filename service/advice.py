"""What was tuned for a version, as far as it is heeded, and what the log is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from service import choice, log, tuned
from service.choice import Chosen
from service.devices import TENSORRT
from service.errors import ModelUnusable
from service.layout import Place
from service.manifest import Variant
from service.precedence import Running
from service.session import ort_version
from service.tuned import Tuned


def heeded(
    place: Place,
    directory: Path,
    wanted: str,
    variants: Sequence[Variant],
    *,
    fingerprint: str,
    units: int,
) -> Tuned | None:
    """What was tuned for this hardware, as far as it still holds; what does not hold is logged.

    Never a reason not to serve: it only says how fast.

    Args:
        place: of the model.
        directory: of the version.
        wanted: variant, or ``auto``.
        variants: published ones.
        fingerprint: of the hardware that it is to run on.
        units: CPUs, or GPUs, of it.
    """
    name = place.name
    digests = {variant.name: variant.sha256 for variant in variants}
    try:
        here = tuned.here(directory, digests, fingerprint=fingerprint, cpus=units)
    except ModelUnusable as error:
        log.warning("served without what was tuned", model=name, reason=str(error))
        return None
    if here.stale:
        log.warning("served without what was tuned; tune again", model=name, reason=here.why)
    elif here.why:
        log.info("nothing was tuned for this hardware and number of CPUs", model=name,
                 reason=here.why)  # fmt: skip
    entry = here.entry
    if entry is None:
        return None
    if wanted not in (choice.AUTO, entry.variant):
        log.info("served without what was tuned: another variant is pinned", model=name,
                 tuned=entry.variant, pinned=wanted)  # fmt: skip
        return None
    if entry.onnxruntime != ort_version():
        log.info("tuned with another ONNX Runtime; tune again to be sure", model=name,
                 then=entry.onnxruntime, now=ort_version())  # fmt: skip
    return entry


def told(place: Place, chosen: Chosen, running: Running, entry: Tuned | None) -> Chosen:
    """The choice, with what flags change of what was tuned; the log is told of both.

    Args:
        place: of the model.
        chosen: variant.
        running: how it runs.
        entry: what was tuned and is heeded.
    """
    session = running.session
    if session.devices[0].is_gpu:
        log.info("runs on GPUs", model=place.name, variant=chosen.variant.name,
                 devices=[str(device) for device in session.devices], lanes=session.lanes,
                 max_batch=running.max_batch, cuda_graphs=session.cuda_graphs)  # fmt: skip
        if session.devices[0].kind == TENSORRT and not session.trt_cache:
            log.warning("TensorRT builds its engines at every start; --trt-cache keeps them",
                        model=place.name)  # fmt: skip
    if entry is None:
        return chosen
    if running.overruled:
        names = ", ".join(running.overruled)
        pair = "instances, threads"
        names = names.replace(pair, "instances and threads (they were measured together)")
        why = f"{chosen.why}; but not {names}: the command line's flags win"
        chosen = replace(chosen, why=why, figures={})
    log.info("runs as tuned", model=place.name, variant=chosen.variant.name,
             max_batch=running.max_batch, instances=running.instances,
             threads=session.threads, spin=session.spin,
             overruled_by_flags=list(running.overruled),
             instead_of_config=dict(running.replaced or {}))  # fmt: skip
    return chosen
