"""What is published of what was built, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import farthing
from converter import judge, quantize
from converter.choosing import choose
from converter.evidence import Evidence
from converter.judge import Judge
from converter.quantize import Static
from converter.recipe import Bounds, Recipe, Source
from converter.samples import Samples
from converter.sources import Exported
from converter.target import this_cpu
from converter.workshop import Workshop
from service.errors import FarthingError, InvalidSetting
from service.manifest import Manifest, Variant
from service.session import Session, SessionOptions
from tests import models
from tests.converter import nets
from tests.converter.conftest import Converted, Material


def session(path: Path) -> Session:
    return Session(path, SessionOptions())


def variant(contract: Manifest, name: str) -> Variant:
    return next(variant for variant in contract.variants if variant.name == name)


@pytest.fixture
def double(tmp_path: Path) -> Path:
    return models.double(tmp_path / "double.onnx")


X = np.random.default_rng(0).random((40, 4), np.float32)


def test_each_row_is_evidence_once(double: Path) -> None:
    twice, labels = np.concatenate([X, X[:5]]), np.arange(45)
    evidence = Evidence.gather(None, session(double), Samples({"x": twice}, labels))
    np.testing.assert_array_equal(evidence.rows.feeds["x"], X)
    np.testing.assert_array_equal(evidence.expected["y"], 2 * X)
    assert evidence.rows.labels is not None and evidence.rows.labels.tolist() == list(range(40))


def test_the_frameworks_answers_are_what_is_right(double: Path) -> None:
    expected = {"y": 2 * X * (1 + 1e-4)}
    evidence = Evidence.gather(expected, session(double), Samples({"x": X}, None))
    np.testing.assert_array_equal(evidence.expected["y"], expected["y"])
    np.testing.assert_array_equal(evidence.answers["y"], 2 * X)


def test_fp32_that_answers_otherwise_than_its_framework_is_refused(double: Path) -> None:
    with pytest.raises(FarthingError, match="differently from its framework"):
        Evidence.gather({"y": 3 * X}, session(double), Samples({"x": X}, None))


def test_fp32_whose_answers_depend_on_the_batch_is_refused(tmp_path: Path) -> None:
    crowd = session(nets.crowd(tmp_path / "crowd.onnx"))
    with pytest.raises(FarthingError, match="depend on which rows share their batch"):
        Evidence.gather(None, crowd, Samples({"x": X + 0.1}, None))


def judged(source: Path, held_out: Samples | None, **bounds: object) -> Judge:
    recipe = Recipe(Source(source), "m", source.parent, bounds=Bounds(**bounds))
    shop = Workshop(source, source.parent, None)
    exported = Exported(source, None, {})
    return Judge(recipe, exported, shop, selection=None, held_out=held_out)


def test_a_graph_with_a_batch_baked_in_is_refused(tmp_path: Path) -> None:
    path = nets.build(
        tmp_path / "baked.onnx", [nets.node("Reshape", "x shape", "y")],
        {"x": ["batch", 2, 2]}, {"y": ["batch", 4]}, {"shape": np.array([2, 4])},
    )  # fmt: skip
    with pytest.raises(FarthingError, match="fails at batch 1") as error:
        judged(path, None)
    assert "\n" not in str(error.value)


def test_outputs_that_do_not_follow_the_batch_are_refused(tmp_path: Path) -> None:
    path = nets.build(
        tmp_path / "flat.onnx", [nets.node("Reshape", "x shape", "y")],
        {"x": ["batch", 4]}, {"y": ["n"]}, {"shape": np.array([-1])},
    )  # fmt: skip
    with pytest.raises(FarthingError, match=r"a batch of 1 with an output 'y' of shape \[4\]"):
        judged(path, None)


def test_a_metric_that_cannot_be_had_is_refused_before_anything_is_built(double: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"cannot judge by accuracy: .*labels under 'y'"):
        judged(double, Samples({"x": X}, None), metric="accuracy")


def test_fp32_is_accepted_and_its_accuracy_recorded(double: Path) -> None:
    labels = X.argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % 4
    decided, path = judged(double, Samples({"x": X}, labels)).variant("fp32")
    assert (decided.accepted, decided.outcome, path) == (True, "holds", double)
    assert decided.figures["accuracy"] == pytest.approx(0.9)


def test_without_any_rows_each_variant_says_which_it_needs(double: Path) -> None:
    made = judged(double, None)
    reasons = {name: made.variant(name)[0].reason for name in judge.VARIANTS}
    for name, reason in reasons.items():
        assert reason.startswith("not built: give ") and "--evaluate" in reason
        assert ("--calibration" in reason) == (name != "int8-dynamic")
        assert "\n" not in reason


def test_without_calibration_only_that_is_asked_for(double: Path) -> None:
    made = judged(double, Samples({"x": X}, None))
    assert made.variant("int8-static")[0].reason == (
        "not built: give rows for its ranges with --calibration"
    )


def decided(
    name: str,
    speed: float,
    *,
    accepted: bool = True,
    device: str = "cpu",
    outcome: str = "holds",
) -> Variant:
    figures = {f"speedup_batch_{n}{low}": speed for n in (1, 8) for low in ("", "_low")}
    return Variant(name, accepted, "", figures=figures, device=device, outcome=outcome)


FP32 = Variant("fp32", True, "")


def test_the_fastest_that_holds_on_this_cpu_is_chosen() -> None:
    others = [decided("int8-dynamic", 1.5), decided("int8-static", 2.5), decided("pruned", 2.0)]
    choice = choose([FP32, *others], this_cpu())
    assert choice.variant == "int8-static"
    assert "2.50x fp32 at batch 1" in choice.reason


def test_what_is_slower_than_fp32_or_unproven_is_left_to_whoever_pins_it() -> None:
    slow, unproven = decided("pruned", 0.6), decided("int8-static", 3.0, outcome="not proven")
    assert choose([FP32, slow, unproven], this_cpu()).variant == "fp32"


def test_what_is_refused_or_meant_for_a_gpu_is_never_chosen() -> None:
    others = [decided("fp16", 9.0, device="gpu"), decided("int8-static", 9.0, accepted=False)]
    assert choose([FP32, *others], this_cpu()).variant == "fp32"


def test_the_smaller_gain_of_the_two_batches_counts() -> None:
    uneven = decided("int8-dynamic", 1.5)
    uneven.figures["speedup_batch_1"] = uneven.figures["speedup_batch_1_low"] = 9.0  # type: ignore[index]
    assert choose([FP32, uneven, decided("int8-static", 2.0)], this_cpu()).variant == "int8-static"


@dataclass(frozen=True)
class Damaged:
    """A net whose channels' ranges differ 1000 times, its conversion, and rows."""

    behind: str
    source: Path
    rows: np.ndarray
    contract: Manifest
    directory: Path

    @property
    def static(self) -> Variant:
        return variant(self.contract, "int8-static")

    def agreement(self, path: Path) -> float:
        """Share of the held-out rows on which a graph decides as the damaged net does."""
        both = (nets.answers(each, x=self.rows[96:])["scores"] for each in (path, self.source))
        mine, right = (scores.argmax(axis=1) for scores in both)
        return float(np.mean(mine == right))


@pytest.fixture(scope="module", params=nets.ACTIVATIONS)
def damaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    base = tmp_path_factory.mktemp("damaged")
    source = nets.images_net(base / "net.onnx", behind=request.param, channels=56, times=1e3)
    rows = nets.clear_rows(source, 560, of=2200)
    contract = farthing.convert(
        source, name="net", out=base, variants=["int8-static"], min_speedup=0.01,
        metric="agreement", calibration={"x": rows[:96]}, evaluate={"x": rows[96:]}, budget_s=600,
    )  # fmt: skip
    return Damaged(request.param, source, rows, contract, base / "net" / "1")


def test_plain_int8_of_a_damaged_net_loses_nearly_all(damaged: Damaged, tmp_path: Path) -> None:
    prepared = quantize.prepare(damaged.source, tmp_path / "prepared.onnx")
    plain = Static(prepared, Samples({"x": damaged.rows[:96]}, None))
    plain.write(tmp_path / "plain.onnx")
    assert damaged.agreement(tmp_path / "plain.onnx") < 0.8


def test_the_gates_int8_of_a_damaged_net_loses_nothing(damaged: Damaged) -> None:
    static = damaged.static
    assert static.accepted and static.outcome == "holds"
    assert damaged.agreement(damaged.directory / str(static.file)) >= 0.995
    assert static.figures["drop_points"] <= 0.5


def test_how_a_damaged_net_was_repaired_is_recorded(damaged: Damaged) -> None:
    made = damaged.static.made
    assert made["looks"] == 1
    assert len(made["ranges_sha256"]) == 64
    if damaged.behind == "Relu":
        assert (made["how"], made["excluded"], made["trials"]) == ("equalized, MinMax", [], 2)
    else:  # no rescaling passes: what reads the unequal channels stays in fp32
        assert made["excluded"] and made["trials"] > 3
        assert f"{len(made['excluded'])} regions in fp32" in damaged.static.reason


def test_what_does_not_pay_is_recorded_and_not_published(
    material: Material, tmp_path: Path
) -> None:
    contract = farthing.convert(
        material.source, name="m", out=tmp_path, variants=("int8-static",), min_speedup=100,
        calibration=material.calibration, evaluate=material.held_out,
    )  # fmt: skip
    refused = variant(contract, "int8-static")
    assert not refused.accepted and refused.outcome == "fails"
    assert "does not pay on this CPU" in refused.reason
    assert (refused.file, refused.sha256) == (None, None)
    # Gated by speed first: neither searched further nor judged.
    assert (refused.made["trials"], refused.made["looks"]) == (1, 0)
    assert contract.published == ("fp32",)


@pytest.mark.parametrize("accepted", [False, True])
def test_what_too_few_rows_prove_is_published_only_on_request(
    material: Material, tmp_path: Path, accepted: bool
) -> None:
    with np.load(material.held_out) as rows:
        few = {"x": rows["x"][:100], "y": rows["y"][:100]}
    contract = farthing.convert(
        material.source, name="m", out=tmp_path, evaluate=few, variants=("fp16",),
        calibration=material.calibration, accept_unproven=accepted,
    )  # fmt: skip
    fp16 = variant(contract, "fp16")
    assert (fp16.accepted, fp16.outcome) == (accepted, "not proven")
    assert fp16.reason.startswith("not proven with 100 rows, needs 299: 0 of 100")
    assert ("published by --accept-unproven" in fp16.reason) == accepted
    assert (fp16.file is not None) == accepted


def test_what_fails_is_not_published_even_on_request(material: Material, tmp_path: Path) -> None:
    contract = farthing.convert(
        material.source, name="m", out=tmp_path, evaluate=material.close_calls,
        calibration=material.calibration, variants=("int8-static",), max_drop=0, min_speedup=0.01,
        budget_s=0, accept_unproven=True,
    )  # fmt: skip
    refused = variant(contract, "int8-static")
    assert contract.published == ("fp32",)
    assert refused.figures["newly_wrong"] > 0 and refused.outcome == "fails"
    assert refused.reason.startswith("loses too much")


def test_answers_that_depend_on_who_shares_the_batch_are_not_published(tmp_path: Path) -> None:
    source = nets.dense(tmp_path / "net.onnx", outputs=5)
    x = np.random.default_rng(0).normal(size=(460, 32)).astype(np.float32)
    x[::9] *= 1000  # beside these, eight bits for a whole batch have no steps for the others
    scores = nets.answers(source, x=x)["y"]
    best = np.sort(scores, axis=1)
    held_out = x[np.argsort(best[:, -2] - best[:, -1])[:400]]
    prepared = quantize.prepare(source, tmp_path / "prepared.onnx")
    quantize.write_dynamic(prepared, tmp_path / "dynamic.onnx")
    contract = farthing.convert(
        source, name="net", out=tmp_path / "out", evaluate={"x": held_out}, min_speedup=0.01,
        variants=["int8-dynamic"],
    )  # fmt: skip
    dynamic = variant(contract, "int8-dynamic")
    alone = np.concatenate(
        [nets.answers(tmp_path / "dynamic.onnx", x=row[np.newaxis])["y"] for row in held_out]
    )
    right = nets.answers(source, x=held_out)["y"]
    assert np.mean(alone.argmax(axis=1) == right.argmax(axis=1)) > 0.98
    assert not dynamic.accepted
    assert dynamic.reason.startswith("loses too much")


def test_the_figures_of_a_published_variant_are_its_proof(converted: Converted) -> None:
    for name in converted.contract.published:
        figures = variant(converted.contract, name).figures
        assert (figures["rows"], figures["newly_wrong"]) == (400, 0)
        assert figures["drop_bound_points"] == pytest.approx(0.746, abs=1e-3)
        assert figures["accuracy"] == figures["agreement"] == 1.0
    made = variant(converted.contract, "int8-static").made
    assert made["looks"] == 1 and made["trials"] >= 1 and made["excluded"] == []
