"""The zoo's front door, and one of its models trained from beginning to end."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converter.zoo import ZOO, __main__
from converter.zoo.lesson import Lesson
from service.errors import InvalidSetting


def zoo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "converter.zoo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def perceptron(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where the quick perceptron was trained, and what was printed."""
    directory = tmp_path_factory.mktemp("zoo") / "made" / "perceptron"
    done = zoo("perceptron", str(directory), "--quick", "--usd-per-cpu-hour", "3600")
    assert done.returncode == 0, done.stderr
    return directory, done.stdout


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence on standard error with which it ends."""
    assert __main__.main(arguments) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    return printed.err


@pytest.mark.parametrize("name", ZOO)
def test_every_module_of_the_zoo_trains_a_lesson(name: str) -> None:
    # Read, not imported: some of them need packages that are not installed everywhere.
    spec = importlib.util.find_spec(ZOO[name].module)
    assert spec is not None and spec.origin is not None, f"{ZOO[name].module} is not there"
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (train,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "train")
    (lesson,) = train.args.args
    assert lesson.annotation is not None and ast.unparse(lesson.annotation) == "Lesson"
    assert train.returns is not None and ast.unparse(train.returns) == "dict[str, float]"


def test_the_list_names_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f" {name} " in printed for name in ZOO)
    assert all(entry.extra in printed for entry in ZOO.values())


def test_an_unknown_name_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = refusal(capsys, "perceptor", str(tmp_path / "new"))
    assert "'perceptor'" in said and "perceptron-mirrored" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["digits"], ["digits", "{new}", "more"], ["digits", "{new}", "--weights", "{new}"],
        ["digits", "{new}", "--usd-per-cpu-hour", "-1"],
        ["digits", "{new}", "--usd-per-cpu-hour", "nan"],
        ["digits", "{new}", "--usd-per-cpu-hour", "few"], ["digits", "{new}", "--unknown"],
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
) -> None:
    refusal(capsys, *(argument.format(new=tmp_path / "new") for argument in arguments))
    assert not (tmp_path / "new").exists()


def test_a_directory_that_cannot_be_made_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in refusal(capsys, "digits", str(tmp_path / "file" / "new"))


def test_a_missing_package_is_refused_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['keras'] = None\n"
        "from converter.zoo import __main__\n"
        f"sys.exit(__main__.main(['text-cnn', {str(tmp_path)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "farthing[keras]" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_it_without_a_trace(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "_train", interrupted)
    assert __main__.main(["digits", str(tmp_path)]) == 130
    assert capsys.readouterr().err == ""


def test_logs_for_tensorboard_are_refused_at_once_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.zoo.lesson.find_spec", lambda name: None)
    with pytest.raises(InvalidSetting, match="pip install tensorboard"):
        Lesson(tmp_path, tensorboard=tmp_path / "logs")


def test_the_facts_tell_accuracy_seconds_and_dollars(perceptron: tuple[Path, str]) -> None:
    directory, printed = perceptron
    facts = json.loads((directory / "facts.json").read_text(encoding="utf-8"))
    assert facts["name"] == "perceptron"
    assert facts["held_out_accuracy"] > 0.9
    assert facts["parameters"] == 784 * 128 + 128 + 128 * 10 + 10
    # At 3,600 dollars an hour a CPU costs a dollar a second.
    assert facts["dollars"] == pytest.approx(facts["seconds"] * facts["cpus"])
    assert printed.startswith("perceptron: ") and f"${facts['dollars']:.6f}" in printed
    assert (directory / "model.keras").stat().st_size > 4 * facts["parameters"]


def test_calibration_and_held_out_rows_are_distinct_and_disjoint(
    perceptron: tuple[Path, str],
) -> None:
    directory, _ = perceptron
    with np.load(directory / "calibration.npz") as seen, np.load(directory / "heldout.npz") as held:
        assert (seen.files, held.files) == (["x"], ["x", "y"])
        assert len(held["x"]) == len(held["y"]) == 600 and len(seen["x"]) == 200
        rows = np.concatenate([seen["x"], held["x"]])
        assert (rows.shape[1:], rows.dtype) == ((28, 28), np.float32)
    assert len(np.unique(rows.reshape(len(rows), -1), axis=0)) == len(rows)
