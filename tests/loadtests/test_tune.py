"""What tune finds lies beside the model, and is what the server then runs with."""

from __future__ import annotations

import itertools
import json
import math
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import farthing
from loadtests.tuning import search
from loadtests.tuning.measuring import Clocks, Rig
from loadtests.tuning.trials import Group, Setting
from service import hardware, layout, manifest, model, tuned
from service.manifest import Golden, Manifest, TensorSpec, Variant
from service.model import Model
from service.session import RunFailed
from service.settings import Settings
from service.statistics import Book
from service.tuned import Tuned
from tests import models
from tests.fakes import ManualClock

CPUS = hardware.cpus()


def entry(root: Path, **fields: Any) -> Tuned:
    """One of this hardware, made up."""
    sha256 = manifest.sha256_of(root / "m" / "1" / "model.onnx")
    made = Tuned(hardware.fingerprint(), CPUS, "as-is", sha256, 77, 1, 1, False, 0.0)
    return replace(made, **fields)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    models.classifier(tmp_path / "models" / "m" / "1" / "model.onnx", channels=8)
    return tmp_path / "models"


def slow(root: Path) -> None:
    """Defaults that larger batches win over many times, on a busy machine too."""
    models.double(root / "m" / "1" / "model.onnx")
    (root / "m" / "config.pbtxt").write_text("max_batch_size: 1")


def load(root: Path) -> Model:
    place = layout.places(root)["m"]
    return model.load(
        place, place.available()[-1], place.options(), settings=Settings(repository=root),
        book=Book(), clock=ManualClock(),
    )  # fmt: skip


def rig(root: Path) -> Rig:
    place = layout.places(root)["m"]
    return Rig(place, 1, place.options())


def tune(capsys: pytest.CaptureFixture[str], root: Path, *options: str) -> dict[str, Any]:
    code = farthing.main(["tune", str(root), "--model", "m", "--budget-s", "1", "--json", *options])
    assert code in (0, 1)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_server_starts_with_exactly_what_was_tuned(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow(root)
    found = tune(capsys, root)
    (made,) = tuned.read(root / "m" / "1")
    assert found["written"] == str(root / "m" / "1" / "tuned.json")
    assert found["winner"]["max_batch"] == made.max_batch
    assert (made.fingerprint, made.cpus) == (hardware.fingerprint(), CPUS)
    assert made.sha256 == manifest.sha256_of(root / "m" / "1" / "model.onnx")
    assert set(made.figures) == {"rows_per_s", "run_ms", "worst_ms", "over_defaults"}
    assert made.instances * made.threads <= CPUS
    loaded = load(root)
    assert loaded.chosen.how == "tuned"
    assert (loaded.max_rows, loaded.instances) == (made.max_batch, made.instances)
    assert (loaded.running.session.threads, loaded.running.session.spin) == (
        made.threads, made.spin,
    )  # fmt: skip


def test_dry_run_tells_everything_that_was_tried_and_writes_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow(root)
    found = tune(capsys, root, "--dry-run", "--allow-spin")
    assert found["winner"] is not None and found["written"] is None
    assert [path.name for path in (root / "m" / "1").iterdir()] == ["model.onnx"]
    knobs = list(dict.fromkeys(each["knob"] for each in found["tried"]))
    assert knobs[0] == "batch limit" and knobs[-1] == "check"
    assert all(each["rounds"] >= search.FEWEST_ROUNDS for each in found["tried"])
    assert [each["stays"] for each in found["tried"] if each["knob"] == "check"].count(True) == 1
    spinning = [each for each in found["tried"] if each["knob"] == "spinning"]
    assert all(each["sparse_cpu_ms"] > 0 for each in spinning)


def test_target_that_nothing_meets_is_code_1_and_writes_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["tune", str(root), "--model", "m", "--budget-s", "1", "--target-ms", "0.001"]
    assert farthing.main(options) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "Nothing that was tried answers within 0.001 ms: the nearest, as-is" in said
    assert not (root / "m" / "1" / tuned.FILENAME).exists()


def test_table_marks_the_winner_within_a_hundred_columns(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow(root)
    assert farthing.main(["tune", str(root), "--model", "m", "--budget-s", "1"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "x the defaults" in " ".join(out.split()) and "\n* as-is, " in out


def test_entry_of_other_hardware_stays_and_an_old_one_of_this_is_replaced(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow(root)
    elsewhere = entry(root, fingerprint="another")
    for old in (elsewhere, entry(root, cpus=CPUS)):
        tuned.write(root / "m" / "1", old)
    tune(capsys, root)
    stays, new = tuned.read(root / "m" / "1")
    assert stays == elsewhere
    assert new.fingerprint == hardware.fingerprint() and new.figures


def test_what_was_tuned_before_does_not_count_as_the_defaults(root: Path) -> None:
    tuned.write(root / "m" / "1", entry(root))
    defaults, _ = rig(root).defaults()
    assert defaults == Setting("as-is", 16, 1, CPUS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["models", "--model", "other"], "models has no model 'other'; it has m"),
        (["models", "--model", "../m"], "has no model '../m'"),
        (["models", "--model", "m", "--version", "7"], "has no version 7; it has 1"),
        (["nowhere", "--model", "m"], "nowhere does not exist; give the model repository"),
        (["models/m/1/model.onnx", "--model", "m"], "farthing tune models --model m"),
        (["loose.onnx", "--model", "m"], "models/loose/1/model.onnx"),
        (["models/m", "--model", "m"], "is one model; give the repository it lies in: models"),
        (["empty", "--model", "m"], "it has no models (NAME/VERSION/model.onnx)"),
        (["models", "--model", "m", "--budget-s", "0"], "--budget-s"),
        (["models", "--model", "m", "--target-ms", "-1"], "--target-ms"),
        (["models"], "--model"),
    ],
)
def test_mistake_is_one_sentence_and_code_2(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(root.parent)
    (root.parent / "loose.onnx").touch()
    (root.parent / "empty").mkdir()
    assert farthing.main(["tune", *arguments]) == 2
    told = capsys.readouterr()
    assert says in told.err and len(told.err.strip().splitlines()) == 1
    assert told.out == ""


def test_broken_file_is_told_before_anything_is_measured(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "m" / "1" / tuned.FILENAME).write_text("of a later version")
    assert farthing.main(["tune", str(root), "--model", "m"]) == 2
    assert "remove it, and tune again" in capsys.readouterr().err
    assert (root / "m" / "1" / tuned.FILENAME).read_text() == "of a later version"


def publish(directory: Path, devices: dict[str, str], shape: tuple[int, ...]) -> None:
    """A manifest for NAME.onnx by device, whose golden samples are golden.npz if that is there."""
    digests = {name: manifest.sha256_of(directory / f"{name}.onnx") for name in devices}
    variants = tuple(
        Variant(name, True, "", f"{name}.onnx", digests[name], 1, device=device)
        for name, device in devices.items()
    )
    tensors = [(TensorSpec(name, "FP32", shape),) for name in ("x", "y")]
    golden = directory / "golden.npz"
    made = Golden(golden.name, manifest.sha256_of(golden), 1) if golden.exists() else None
    contract = Manifest("m", True, tensors[0], tensors[1], variants, golden=made)
    (directory / manifest.FILENAME).write_text(contract.to_json())


def test_published_variants_for_cpus_are_tried_and_no_others(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = root / "m" / "1"
    devices = {"fp32": "cpu", "int8": "cpu", "half": "gpu"}
    for name in devices:
        models.double(directory / f"{name}.onnx")
    publish(directory, devices, (-1, 4))
    found = tune(capsys, root, "--dry-run")
    tried = [each["variant"] for each in found["tried"] if each["knob"] == search.VARIANT]
    assert sorted(tried) == ["fp32", "int8"]
    assert {each["variant"] for each in found["tried"]} == {"fp32", "int8"}


def test_golden_rows_are_what_is_run(root: Path) -> None:
    directory = root / "m" / "1"
    # It takes images of any size from 3 x 3, so it cannot be run on made-up ones of 1 x 1.
    models.valid_convolution(directory / "fp32.onnx")
    group = Group(search.ROWS, (Setting("fp32", 2, 1, 1),))
    publish(directory, {"fp32": "cpu"}, (-1, 1, -1, -1))
    with pytest.raises(RunFailed):
        rig(root).measure(group, ends=0.0)
    np.savez(directory / "golden.npz", **{"in:x": np.ones((1, 1, 8, 8), np.float32)})
    publish(directory, {"fp32": "cpu"}, (-1, 1, -1, -1))
    assert list(rig(root).measure(group, ends=0.0)) == list(group.settings)


def test_variant_that_cannot_be_opened_is_left_out(root: Path) -> None:
    settings = (Setting("as-is", 1, 1, 1), Setting("gone", 1, 1, 1))
    bench = rig(root)
    found = bench.measure(Group(search.VARIANT, settings), ends=0.0)
    bench.close()
    assert list(found) == [settings[0]]


def test_rounds_end_with_the_budget_but_are_never_too_few(root: Path) -> None:
    bench = rig(root)
    group = Group(search.PAIR, (Setting("as-is", 1, 1, 1), Setting("as-is", 1, 2, 1)))
    few = bench.measure(group, ends=bench.clocks.now())
    many = bench.measure(group, ends=bench.clocks.now() + 60)
    bench.close()
    assert {len(m.rates) for m in few.values()} == {search.FEWEST_ROUNDS}
    assert min(len(m.rates) for m in many.values()) >= 15
    assert all(rate > 0 for m in many.values() for rate in m.rates)


@pytest.mark.parametrize(("steps_s", "rounds"), [((0.02,), 15), ((0.01, 0.3), 60)])
def test_more_rounds_are_made_where_they_differ(
    root: Path, steps_s: tuple[float, ...], rounds: int
) -> None:
    chance = random.Random(5)
    times = itertools.accumulate(chance.choice(steps_s) for _ in itertools.count())
    bench = rig(root)
    bench.clocks = Clocks(now=lambda: next(times), sleep=lambda seconds: None)
    setting = Setting("as-is", 1, 1, 1)
    found = bench.measure(Group(search.PAIR, (setting,)), ends=math.inf)
    bench.close()
    assert len(found[setting].rates) == rounds


def test_batch_limits_that_no_budget_is_left_for_are_not_run(root: Path) -> None:
    bench = rig(root)
    sizes = tuple(Setting("as-is", 2**n, 1, 1) for n in range(9))
    found = bench.measure(Group(search.ROWS, sizes, growing=True), ends=bench.clocks.now())
    bench.close()
    assert list(found) == [sizes[0]]


def test_sparse_requests_count_the_cpu_of_all_threads(root: Path) -> None:
    spent = iter(range(0, 10_000, 16))
    bench = rig(root)
    bench.clocks = Clocks(cpu=lambda: float(next(spent)), sleep=lambda seconds: None)
    (setting,) = settings = (Setting("as-is", 1, 1, 2, spin=True),)
    found = bench.measure(Group(search.SPIN, settings), ends=0.0)
    bench.close()
    assert found[setting].sparse_cpu_s == 16 / 8


def test_interrupted_search_leaves_what_was_there_and_nothing_else(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = root / "m" / "1"
    path = tuned.write(directory, entry(root))
    before = path.read_bytes()
    # A budget of an hour is not used up by then.
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 2.0)
    code = farthing.main(["tune", str(root), "--model", "m", "--budget-s", "3600", "--json"])
    told = capsys.readouterr()
    assert (code, told.out) == (130, "")
    assert told.err.rstrip().endswith("farthing: interrupted; nothing was written")
    assert sorted(found.name for found in directory.iterdir()) == ["model.onnx", path.name]
    assert path.read_bytes() == before
