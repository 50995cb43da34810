"""What is refused before anything is started, and the command that does it again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from converter.recipe import ALL_VARIANTS, Recipe
from service.errors import InvalidSetting


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a model.onnx"
    path.write_bytes(b"x")
    return path


def again(command: str) -> Recipe:
    """The recipe that this command line stands for."""
    program, verb, model, *rest = shlex.split(command)
    assert (program, verb) == ("farthing", "convert")
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    paths = {
        key: Path(options.pop(f"--{key}"))
        for key in ("calibration", "evaluate")
        if f"--{key}" in options
    }
    recipe = Recipe(
        Path(model),
        options.pop("--name"),
        Path(options.pop("--out")),
        **paths,
        variants=tuple(part for part in options.pop("--variants").split(",") if part),
        max_drop=float(options.pop("--max-drop")),
        min_speedup=float(options.pop("--min-speedup")),
    )
    assert not options
    return recipe


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-dash", "a/b", "a b", "ü", "a\n", "x" * 129]
)
def test_a_name_that_is_no_directorys_name_is_refused(source: Path, name: str) -> None:
    with pytest.raises(InvalidSetting, match="cannot be a model's name"):
        Recipe(source, name, Path("out"))


@pytest.mark.parametrize("name", ["a", "resnet-50_v1.5", "_", "9", "x" * 128])
def test_a_plain_name_is_taken(source: Path, name: str) -> None:
    assert Recipe(source, name, Path("out")).name == name


@pytest.mark.parametrize("field", ["source", "calibration", "evaluate"])
def test_a_missing_file_is_named(source: Path, tmp_path: Path, field: str) -> None:
    missing = tmp_path / "missing.file"
    with pytest.raises(InvalidSetting) as error:
        Recipe(**{"source": source, "name": "m", "out": tmp_path, field: missing})
    assert str(error.value) == f"{missing} does not exist"


def test_an_unknown_variant_is_refused_with_the_known_ones(source: Path) -> None:
    with pytest.raises(InvalidSetting) as error:
        Recipe(source, "m", Path("out"), variants=("fp32", "int4"))
    assert "'int4'" in str(error.value)
    assert all(name in str(error.value) for name in ALL_VARIANTS)


@pytest.mark.parametrize("drop", [-0.1, 100.1, float("nan"), float("inf")])
def test_a_drop_out_of_range_is_refused(source: Path, drop: float) -> None:
    with pytest.raises(InvalidSetting, match="0 to 100"):
        Recipe(source, "m", Path("out"), max_drop=drop)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 100.1, float("nan"), float("inf")])
def test_a_speed_up_out_of_range_is_refused(source: Path, ratio: float) -> None:
    with pytest.raises(InvalidSetting, match="more than 0, at most 100"):
        Recipe(source, "m", Path("out"), min_speedup=ratio)


def test_the_ends_of_the_ranges_are_taken(source: Path) -> None:
    for drop, ratio in ((0.0, 1e-9), (100.0, 100.0)):
        recipe = Recipe(source, "m", Path("out"), max_drop=drop, min_speedup=ratio)
        assert (recipe.max_drop, recipe.min_speedup) == (drop, ratio)


def test_the_reference_is_always_wanted_and_first(source: Path) -> None:
    recipe = Recipe(source, "m", Path("out"), variants=("int8-static", "fp16", "fp16"))
    assert recipe.wanted == ("fp32", "fp16", "int8-static")


def test_the_command_reproduces_the_recipe(source: Path) -> None:
    recipe = Recipe(
        source, "m", Path("it's $HOME; here"), source, source, ("fp16", "int8-static"), 0.5, 2
    )
    assert again(recipe.command()) == recipe


def test_the_command_leaves_out_the_files_that_were_not_given(source: Path) -> None:
    recipe = Recipe(source, "m", Path("out"))
    assert "--calibration" not in recipe.command() and "--evaluate" not in recipe.command()
    assert again(recipe.command()) == recipe


def test_the_command_keeps_every_digit_of_a_bound(source: Path) -> None:
    recipe = Recipe(source, "m", Path("out"), max_drop=0.12345678, min_speedup=1.00000001)
    assert again(recipe.command()) == recipe
