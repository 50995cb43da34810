"""The variant that is served is pinned, recorded, or the fastest of those timed here."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service import choice
from service.errors import ModelUnusable
from service.manifest import Choice, Manifest, Variant
from service.tuned import Tuned
from tests.fakes import ManualClock


def published(*names: str, gpu: tuple[str, ...] = ()) -> Manifest:
    variants = [
        Variant(name, True, "", "f", "d", device="gpu" if name in gpu else "cpu") for name in names
    ]
    refused = Variant("int8", False, "too inaccurate")
    return Manifest("m", True, (), (), (*variants, refused), chosen={"here": Choice("b", "faster")})


@pytest.mark.parametrize(
    ("wanted", "mark", "name", "how"),
    [("a", "here", "a", "pinned"), ("auto", "here", "b", "recorded")],
)
def test_choice_is_the_pinned_then_the_recorded(
    wanted: str, mark: str, name: str, how: str
) -> None:
    chosen = choice.known(published("a", "b"), wanted, mark)
    assert chosen is not None
    assert (chosen.variant.name, chosen.how) == (name, how)


def test_unknown_hardware_has_to_be_timed() -> None:
    assert choice.known(published("a", "b"), "auto", "elsewhere") is None


def test_single_variant_needs_no_timing() -> None:
    chosen = choice.known(published("a"), "auto", "elsewhere")
    assert chosen is not None and (chosen.variant.name, chosen.how) == ("a", "only")


def test_variant_for_gpus_is_no_candidate() -> None:
    chosen = choice.known(published("a", "half", gpu=("half",)), "auto", "elsewhere")
    assert chosen is not None and chosen.variant.name == "a"


def test_refused_variant_cannot_be_pinned() -> None:
    with pytest.raises(ModelUnusable, match="too inaccurate"):
        choice.known(published("a"), "int8", "here")


def timed(**milliseconds: float) -> choice.Chosen:
    clock = ManualClock()

    def taking(ms: float) -> Callable[[], None]:
        return lambda: clock.advance(ms / 1e3)

    contract = published(*milliseconds)
    runs = {name: [taking(ms), taking(8 * ms)] for name, ms in milliseconds.items()}
    return choice.timed(choice.for_device(contract, "cpu"), runs, clock)


def test_fastest_of_the_timed_is_served() -> None:
    chosen = timed(fp32=9.0, static=3.0, dynamic=6.0)
    assert (chosen.variant.name, chosen.how) == ("static", "timed")
    assert chosen.figures == {
        "fp32_speedup": 1.0, "static_speedup": 3.0, "dynamic_speedup": 1.5,
    }  # fmt: skip
    assert "nothing is recorded" in chosen.why and "static 3.00x" in chosen.why


@pytest.mark.parametrize(("ms", "served"), [(9.2, "fp32"), (8.9, "half")])
def test_order_is_kept_unless_the_gain_is_over_a_tenth(ms: float, served: str) -> None:
    assert timed(fp32=10.0, half=ms).variant.name == served


def test_gpu_is_served_what_is_meant_for_it_and_the_reference() -> None:
    contract = published("fp32", "int8", "fp16", gpu=("fp16",))
    assert [v.name for v in choice.for_device(contract, "gpu")] == ["fp32", "fp16"]
    assert [v.name for v in choice.for_device(contract, "cpu")] == ["fp32", "int8"]
    assert choice.known(contract, "auto", "elsewhere", meant="gpu") is None  # to be timed


def test_gpu_that_nothing_was_made_for_runs_the_reference() -> None:
    chosen = choice.known(published("fp32", "int8"), "auto", "elsewhere", meant="gpu")
    assert chosen is not None and (chosen.variant.name, chosen.how) == ("fp32", "only")


def test_what_was_tuned_on_gpus_is_told_in_gpus() -> None:
    contract = published("fp32")
    entry = Tuned("H, compute 9.0, cuda", 2, "fp32", "d", 8, 2, 1, False, 0.0, date="today")
    assert "and 2 GPUs: up to 8" in choice.as_tuned(contract.variant("fp32"), entry).why
