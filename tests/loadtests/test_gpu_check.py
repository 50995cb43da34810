"""What `make gpu-check` says is missing, what it installs from, and its whole way at toy size."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench.gpu import __main__ as check
from loadtests.bench.gpu import driver, environment, fetch, places, run, scales, wheels
from loadtests.bench.gpu.arguments import read
from loadtests.bench.gpu.environment import Source
from loadtests.bench.gpu.measuring import (
    FASTER_GOAL,
    SERVED_GOALS,
    SHARED,
    WIRE,
    Budget,
    Measuring,
    Options,
)
from loadtests.bench.gpu.places import Way
from loadtests.bench.gpu.record import DATA, PAGE, Goal, Record, Row
from loadtests.bench.gpu.served import Load, Seen
from loadtests.bench.gpu.wheels import Offer, WheelsMissing
from loadtests.observed import Observed
from service import machine
from service.devices import CUDA, Device
from service.machine import Tools
from service.nvml import Reading

BARE_PYTHON = ("__main__", "arguments", "driver", "environment", "fetch", "wheels")


class Driver:
    """libcuda, as far as it is asked."""

    def __init__(self, *, init: int = 0, version: int = 13000, gpus: int = 1) -> None:
        self.init, self.version, self.gpus = init, version, gpus

    def cuInit(self, _flags: int) -> int:
        return self.init

    def cuDriverGetVersion(self, to: Any) -> int:
        ctypes.cast(to, ctypes.POINTER(ctypes.c_int))[0] = self.version
        return 0

    def cuDeviceGetCount(self, to: Any) -> int:
        ctypes.cast(to, ctypes.POINTER(ctypes.c_int))[0] = self.gpus
        return 0


def wheel(
    folder: Path, name: str, version: str = "1.0", *, needs: tuple[str, ...] = (),
    tag: str = "py3-none-any", files: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """A wheel that pip can install."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    told = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (files or {f"{name}.py": f"said = '{version}'\n"}).items():
            archive.writestr(file, text)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{told}"
        )
        archive.writestr(
            f"{info}/WHEEL",
            f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.parametrize(
    ("library", "ending"),
    [
        (Driver(init=100), "no GPU that this process may use"),
        (Driver(init=999), "cuInit answers 999"),
        (Driver(version=12040), "is for CUDA 12.4, and onnxruntime-gpu needs 13.0"),
        (Driver(gpus=0), "no GPU that this process may use"),
    ],
)
def test_what_is_missing_of_a_gpu_is_said_in_one_sentence(library: Driver, ending: str) -> None:
    said = driver.missing(lambda _name: library)
    assert ending in said and "\n" not in said


def test_nothing_is_missing_where_driver_and_gpu_are_there() -> None:
    assert driver.missing(lambda _name: Driver(version=13010)) == ""


def test_a_machine_without_a_driver_ends_with_2_and_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    code = check.main([], look=lambda: driver.missing(absent), home=tmp_path / "home")
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1
    assert said.startswith("gpu-check: there is no NVIDIA driver here (libcuda.so.1")
    assert not (tmp_path / "home").exists()  # nothing was installed first


def test_ctrl_c_while_it_installs_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "prepared", interrupted)
    assert check.main([], look=lambda: "", home=tmp_path / "home") == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_its_first_half_imports_nothing_that_would_have_to_be_installed() -> None:
    modules = ", ".join(f"loadtests.bench.gpu.{name}" for name in BARE_PYTHON)
    code = (
        f"import sys, {modules}\n"
        "ours = {'loadtests'}\n"
        "foreign = {name.partition('.')[0] for name in sys.modules} - ours\n"
        "sys.exit(', '.join(foreign - set(sys.stdlib_module_names) - {'__main__'}) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=environment.ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_wheels_that_travel_in_parts_are_joined(tmp_path: Path) -> None:
    whole = wheel(tmp_path / "wheels", "large", files={"large.py": "x = 1\n" * 300}).read_bytes()
    cut = wheels.split(tmp_path / "wheels", part_bytes=400)
    assert len(cut) > 2 and [path.name for path in cut][:2] == [
        "large-1.0-py3-none-any.whl.part00", "large-1.0-py3-none-any.whl.part01",
    ]  # fmt: skip
    (joined,) = wheels.joined(tmp_path / "wheels", tmp_path / "joined")
    assert joined.name == "large-1.0-py3-none-any.whl" and joined.read_bytes() == whole


@pytest.mark.parametrize("lost", [0, 1, -1])
def test_a_part_that_is_not_there_is_named(tmp_path: Path, lost: int) -> None:
    wheel(tmp_path / "wheels", "large", files={"large.py": "x = 1\n" * 300})
    cut = wheels.split(tmp_path / "wheels", part_bytes=400)
    cut[lost].unlink()
    with pytest.raises(WheelsMissing, match=r"large-1\.0-py3-none-any\.whl"):
        wheels.joined(tmp_path / "wheels", tmp_path / "joined")


def test_a_wheel_that_is_cut_anew_leaves_no_part_of_the_earlier_cut(tmp_path: Path) -> None:
    folder, files = tmp_path / "wheels", {"large.py": "x = 1\n" * 300}
    wheel(folder, "large", files=files)
    assert len(wheels.split(folder, part_bytes=200)) > 4
    whole = wheel(folder, "large", files=files).read_bytes()
    cut = wheels.split(folder, part_bytes=len(whole) - 1)
    assert sorted(folder.iterdir()) == cut and len(cut) == 2
    (joined,) = wheels.joined(folder, tmp_path / "joined")
    assert joined.read_bytes() == whole


def test_parts_of_different_cuts_are_not_joined(tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    whole = wheel(folder, "large", files={"large.py": "x = 1\n" * 300})
    wheels.split(folder, part_bytes=400)
    whole.with_name(f"{whole.name}.part00").write_bytes(bytes(300))
    with pytest.raises(WheelsMissing, match="different cuts: delete them all"):
        wheels.joined(folder, tmp_path / "joined")


def test_parts_that_were_copied_again_are_joined_again(tmp_path: Path) -> None:
    folder, files = tmp_path / "wheels", {"large.py": "x = 1\n" * 300}
    whole = wheel(folder, "large", files=files).read_bytes()
    cut = wheels.split(folder, part_bytes=400)
    good = cut[0].read_bytes()
    cut[0].write_bytes(bytes(400))
    (joined,) = wheels.joined(folder, tmp_path / "joined")
    assert joined.read_bytes() != whole
    cut[0].write_bytes(good)
    later = joined.stat().st_mtime_ns + 1
    os.utime(cut[0], ns=(later, later))
    assert wheels.joined(folder, tmp_path / "joined") == [joined] and joined.read_bytes() == whole


@pytest.mark.parametrize("bytes_", [b"j", b"PK"])
def test_a_damaged_wheel_ends_with_2_and_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    bytes_: bytes,
) -> None:  # fmt: skip
    damaged = wheel(tmp_path / "wheels", "tiny")
    damaged.write_bytes(damaged.read_bytes()[:60] if bytes_ == b"PK" else bytes_)
    monkeypatch.setattr(environment, "needs", lambda: ["tiny"])
    arguments = ["--wheels", str(tmp_path / "wheels")]
    assert check.main(arguments, look=lambda: "", home=tmp_path / "home") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{damaged.name} is damaged: copy it again" in said


def test_all_that_a_folder_lacks_is_named_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    wheel(folder, "there", needs=("deep>=2", "never; python_version < '3'", "More ; extra == 'x'"))
    wheel(folder, "foreign", tag="cp27-cp27m-win32")
    wheel(folder, "old", "1.0")
    lacks = wheels.lacking(["there[x]>=1", "foreign", "old>=2", "absent"], [folder])
    assert lacks == [
        "absent (no wheel)",
        "deep>=2 (no wheel)",
        "foreign (foreign-1.0-cp27-cp27m-win32.whl is for another Python or system)",
        "more (no wheel)",
        "old>=2 (there is 1.0)",
    ]


def test_an_extra_that_is_not_asked_for_needs_nothing(tmp_path: Path) -> None:
    wheel(tmp_path, "there", needs=("more; extra == 'x'",))
    assert wheels.lacking(["there"], [tmp_path]) == []


def test_what_is_installed_already_counts_if_its_version_suffices(tmp_path: Path) -> None:
    def installed(name: str) -> Offer | None:
        return Offer("1.5", ("deep",)) if name == "there" else None

    tmp_path.joinpath("empty").mkdir()
    lacks = wheels.lacking(["there>=1"], [tmp_path / "empty"], installed=installed)
    assert lacks == ["deep (no wheel)"]
    assert wheels.lacking(["there>=2"], [tmp_path / "empty"], installed=installed) == [
        "there>=2 (no wheel)"
    ]


def test_an_empty_folder_of_wheels_ends_with_2_and_names_all_that_farthing_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wheels").mkdir()
    arguments = ["--wheels", str(tmp_path / "wheels")]
    assert check.main(arguments, look=lambda: "", home=tmp_path / "home") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "make gpu-wheels WHEELS=DIR" in said
    for name in ("onnxruntime-gpu>=1.31", "grpcio>=", "numpy>=2", "pytest>=9", "cuda-bindings"):
        assert name in said


def test_the_check_needs_what_the_gpu_and_the_server_need() -> None:
    needs = environment.needs()
    assert not [need for need in needs if need.startswith("farthing")]
    assert "onnxruntime-gpu[cuda,cudnn]>=1.31" in needs and "grpcio>=1.81.1" in needs
    command = fetch.command(Path("wheels"), "3.12")
    assert command[command.index("--python-version") + 1] == "3.12"
    assert set(needs) <= set(command) and "--platform=manylinux_2_28_x86_64" in command


def test_an_environment_is_made_from_a_folder_of_wheels_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home = tmp_path / "wheels", tmp_path / "home"
    wheel(folder, "tiny", needs=("deep",))
    wheel(folder, "deep", files={"deep.py": "", "nvidia/fake/lib/libfake.so": ""})
    wheels.split(folder, part_bytes=300)
    monkeypatch.setattr(environment, "needs", lambda: ["tiny"])
    source = Source(folder)
    assert environment.missing(source, home / "joined") == ""
    python = environment.prepared(source, home)
    code = (
        "import importlib.metadata as m, importlib.util as u, os, tiny, deep, service.errors\n"
        "print(tiny.said, m.version('farthing'), u.find_spec('grpc'), "
        "os.environ['LD_LIBRARY_PATH'].split(':')[0])"
    )
    command = environment.command(python, ["-c", code])
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    version, farthing, foreign, libraries = said.split()
    assert (version, foreign) == ("1.0", "None") and farthing[0].isdigit()
    assert libraries.endswith("nvidia/fake/lib")
    before = python.lstat().st_mtime_ns
    assert environment.prepared(source, home).lstat().st_mtime_ns == before
    wheel(folder, "another")
    assert environment.prepared(source, home).lstat().st_mtime_ns != before


def test_an_environment_uses_what_is_there_already_if_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    monkeypatch.setattr(environment, "needs", lambda: ["grpcio", "numpy"])
    source = Source(tmp_path / "wheels", system=True)
    assert environment.missing(source, tmp_path / "home" / "joined") == ""
    python = environment.prepared(source, tmp_path / "home")
    command = environment.command(python, ["-c", "import grpc, numpy, sys; print(sys.prefix)"])
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(tmp_path / "home" / "venv")


def test_an_onnxruntime_without_cuda_is_one_sentence_and_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = Tools(lambda: (), lambda: "onnxruntime 9.9.9", lambda: (), lambda _device: "")
    monkeypatch.setattr(machine, "real", lambda: tools)
    machine.found.cache_clear()
    assert run.main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpu-check: ") and said.count("\n") == 1 and "9.9.9" in said
    assert not (tmp_path / "out").exists()


def test_what_of_a_card_may_show_in_figures_is_told() -> None:
    card = Reading(busy=0.25, memory_used_bytes=3 * 2**30, celsius=41, slowed=("power", "heat"))
    assert places.told(card) == "25% busy, 3.0 GiB in use, 41 °C, clocks lowered by power and heat"
    assert places.told(Reading()) == ""


def test_a_goal_is_held_missed_or_not_measured() -> None:
    endings = [Goal("g", 0.9, figure).ending for figure in (0.9, 0.89, None)]
    assert endings == ["held", "missed", "not measured"]


def test_a_run_that_is_killed_leaves_what_it_had(tmp_path: Path) -> None:
    record = Record(["device: a card"], tmp_path)
    record.judge(Goal("fast", 0.9))
    record.add(Row("net", "bare, batch 1", rows_per_s=1234.5, p50_ms=0.81, note="a note"))
    page = (tmp_path / PAGE).read_text()
    assert "| net | bare, batch 1 | 1,234 | - | 0.81 | - | - | - |" in page
    assert "| fast | 0.9 | - | not measured |" in page and "- net, bare, batch 1: a note" in page
    data = json.loads((tmp_path / DATA).read_text())
    assert data["rows"][0]["rows_per_s"] == 1234.5
    assert sorted(path.name for path in tmp_path.iterdir()) == [DATA, PAGE]


def test_the_whole_way_runs_at_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--toy", "--only", "table", "--out", str(tmp_path)]
    arguments += ["--price-usd-per-hour", "3.6", "--compare-nhwc"]
    assert run.main(arguments) == 0, capsys.readouterr().out
    data = json.loads((tmp_path / DATA).read_text())
    assert data["left_out"] == []
    rows = {(row["model"], row["what"]): row for row in data["rows"]}
    assert {model for model, _ in rows} == {"resnet50 fp16", *scales.TOY.others}
    loop = rows["resnet50 fp16", "closed loop, 2 callers x 1 rows, wire"]
    assert loop["rows_per_s"] > 0 and loop["over_bare"] > 0 and loop["p50_ms"] > 0
    assert loop["usd_per_million"] == pytest.approx(1000 / loop["rows_per_s"])
    assert loop["joules_per_1000"] == pytest.approx(1e5 / loop["rows_per_s"], rel=0.5)
    ways = {what for model, what in rows if model == "resnet50 fp16"}
    assert {"bare, batch 4", "bare, batch 4, prefer_nhwc"} <= ways  # compared
    assert [what for what in ways if re.match(r"bare, batch \d, exhaustive search", what)]
    assert [what for what in ways if re.match(r"bare, batches \d and \d by turns", what)]
    assert [what for what in ways if what.endswith("wire, without CUDA graphs")]
    assert [what for what in ways if what.endswith("shared memory, 2x")]
    figures = {goal["name"]: goal["figure"] for goal in data["goals"]}
    assert figures[FASTER_GOAL] > 0 and all(figures[goal] > 0 for goal in SERVED_GOALS.values())
    assert "price: 3.6 USD per hour" in (tmp_path / PAGE).read_text()


def test_what_does_not_fit_into_the_time_is_named_and_ends_with_1(tmp_path: Path) -> None:
    arguments = ["--toy", "--only", "table", "--out", str(tmp_path), "--budget-s", "0"]
    assert run.main(arguments) == 1
    page = (tmp_path / PAGE).read_text()
    assert "- resnet50 fp16, served: the time was used up" in page
    assert page.count("not measured |") == 4


class Served:
    """A rig of which some runs are void; a closed loop's calls a second are its callers."""

    def __init__(self, void: Callable[[Load], bool]) -> None:
        self.void, self.seen_loads = void, list[Load]()

    def seen(self, load: Load) -> Seen:
        self.seen_loads.append(load)
        calls = Observed(1.0, offered=load.callers, lost=int(self.void(load)))
        calls.endings["good"] = load.callers or round(load.rate / load.rows)
        return Seen(load, calls, None)


@contextmanager
def measured(folder: Path, rig: Served) -> Iterator[Measuring]:
    """A table of which bare runs gave 1000 rows a second; the rig is what serves."""
    loads = (Load(callers=800), Load(callers=100, rows=9), Load(callers=99, rows=9, shared=True))
    scale = replace(scales.TOY, closed=loads, closed_few=loads, others=("resnet50 fp32",))
    measuring = Measuring(places.toy(0.0), scale, Record([], folder), Budget(1e6), folder)

    def ceiling(model: str, **_: bool) -> None:
        measuring.ceilings[model] = 1000.0

    measuring._bare = ceiling  # type: ignore[method-assign]
    measuring._rig = lambda *_: nullcontext(rig)  # type: ignore[assignment, method-assign]
    measuring.run(Options())
    yield measuring


def test_goals_are_judged_by_runs_that_may_be_believed(tmp_path: Path) -> None:
    with measured(tmp_path, Served(lambda load: load == Load(callers=100, rows=9))) as measuring:
        goals = measuring.record.goals
        assert goals[SERVED_GOALS[WIRE]].figure == 0.8  # not 0.9
        assert goals[SERVED_GOALS[SHARED]].figure == pytest.approx(0.891)
        assert goals[FASTER_GOAL].figure == 1.0
        assert not measuring.record.left_out
        measuring.reached = {("resnet50 fp16", WIRE): 90, ("resnet50 fp16", SHARED): 300,
                             ("resnet50 fp32", WIRE): 50}  # fmt: skip
        measuring._compared()  # by what both were measured with
        assert goals[FASTER_GOAL].figure == 1.8


def test_what_would_be_computed_from_void_runs_is_not_measured(tmp_path: Path) -> None:
    rig = Served(lambda load: bool(load.callers))
    with measured(tmp_path, rig) as measuring:
        assert {goal.ending for goal in measuring.record.goals.values()} == {"not measured"}
        assert all(load.callers for load in rig.seen_loads)  # no rate was made of them
        assert [line.partition(": ")[2] for line in measuring.record.left_out] == [
            "no closed loop over the wire may be believed",
            "the run that tells its capacity may not be believed",
        ]


def test_the_tests_use_the_gpu_that_was_asked_for() -> None:
    assert "--gpu=1" in run._tests(read(["--gpu", "1"]))
    assert "--stand-in" in run._tests(read(["--toy"]))


@pytest.mark.parametrize(("precision", "tf32"), [("fp16", "1"), ("fp32", "0")])
def test_bare_runs_leave_fp16_its_tensor_cores_and_fp32_its_digits(
    precision: str, tf32: str
) -> None:
    way = Way(tf32=precision == "fp16")
    (_, options), _ = places.Place(Device(CUDA, 2)).providers(way)
    assert (options["use_tf32"], options["device_id"]) == (tf32, "2")
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"


# What the quick ones leave out is run at toy size, or with stand-ins, by other tests of every day.
@pytest.mark.parametrize(
    ("chosen", "least"),
    [
        pytest.param("not many_callers and not test_conversion", 35, id="quick"),
        pytest.param("", 38, id="all", marks=pytest.mark.slow),
    ],
)
def test_the_gpu_s_tests_run_on_a_cpu_as_far_as_they_go(chosen: str, least: int) -> None:
    command = [
        sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "--stand-in",
        "-p", "no:cacheprovider", "-k", chosen,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=environment.ROOT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout[-3000:]
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all("needs a GPU, for which nothing stands in" in line for line in skipped)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= least


@pytest.mark.parametrize(("seconds", "code"), [(60, 3), (0.5, None)])
def test_what_runs_is_shown_and_ends_with_its_time(
    seconds: float, code: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    wait = "" if code else "; import signal; signal.pause()"
    program = f"import sys; print('one', flush=True){wait}; sys.exit(3)"
    lines, ended = run._streamed([sys.executable, "-c", program], seconds)
    assert ended == code
    if code:
        assert lines == ["one"] and capsys.readouterr().out == "one\n"


def test_tests_of_the_gpu_are_run_by_no_other_verb() -> None:
    makefile = (environment.ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for line in makefile.splitlines() if "-m pytest" in line]
    everything = [line for line in lines if "tests/" not in line or "--ignore" in line]
    assert len(everything) == 2 and all("not gpu" in line for line in everything)
