"""What is refused before anything is started, and the command that does it again."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import farthing
from converter import pipeline
from converter.recipe import ALL_VARIANTS, METRICS, Bounds, Budget, Recipe, Source
from service import manifest
from service.errors import FarthingError, InvalidSetting


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a model.onnx"
    path.write_bytes(b"x")
    return path


def plain(source: Path, name: str = "m", **changes: object) -> Recipe:
    return Recipe(Source(source), name, Path("out"), **changes)


Again = Callable[[Recipe], Recipe]


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Again:
    """The recipe that a recipe's command line stands for, as the command itself reads it."""

    def read(recipe: Recipe) -> Recipe:
        found: list[Recipe] = []

        def caught(recipe: Recipe, step: object) -> None:
            found.append(recipe)
            raise FarthingError("that is all")

        monkeypatch.setattr(pipeline, "run", caught)
        program, *words = shlex.split(recipe.command())
        assert program == "farthing"
        assert farthing.main(words) == 2
        assert capsys.readouterr().err == "farthing: that is all\n"
        return found[0]

    return read


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-dash", "a/b", "a b", "ü", "a\n", "x" * 129]
)
def test_a_name_that_is_no_directorys_name_is_refused(source: Path, name: str) -> None:
    with pytest.raises(InvalidSetting, match="cannot be a model's name"):
        plain(source, name)


@pytest.mark.parametrize("name", ["a", "resnet-50_v1.5", "_", "9", "x" * 128])
def test_a_plain_name_is_taken(source: Path, name: str) -> None:
    assert plain(source, name).name == name


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.file"
    with pytest.raises(InvalidSetting) as error:
        plain(missing)
    assert str(error.value) == f"{missing} does not exist"


@pytest.mark.parametrize("field", ["calibration", "evaluate"])
def test_missing_rows_are_named(source: Path, tmp_path: Path, field: str) -> None:
    missing = tmp_path / "missing.file"
    with pytest.raises(InvalidSetting) as error:
        plain(source, **{field: str(missing)})
    assert str(error.value) == f"{missing} does not exist"
    with pytest.raises(InvalidSetting) as error:
        plain(source, **{field: str(tmp_path)})
    assert str(error.value) == f"{tmp_path} is not a file"


@pytest.mark.parametrize("rows", ["rows:build", "my.own.module:rows_1", "_a:_b"])
def test_rows_may_be_the_name_of_a_function(source: Path, rows: str) -> None:
    assert plain(source, calibration=rows, evaluate=rows).calibration == rows


@pytest.mark.parametrize("rows", ["rows", "a.py:", ":rows", "a/b:rows", "a:b:c", "a:b.c", "a: b"])
def test_what_is_neither_a_file_nor_such_a_name_is_refused(source: Path, rows: str) -> None:
    with pytest.raises(InvalidSetting, match="does not exist"):
        plain(source, evaluate=rows)


def test_no_model_at_all_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"give a trained model, or --factory pkg.mod:build"):
        Recipe(Source(None), "m", Path("out"))


def test_a_factory_needs_no_weights() -> None:
    recipe = Recipe(Source(None, factory="nets:build"), "m", Path("out"))
    assert (recipe.source.told, recipe.source.sha256()) == ("nets:build", "")


def test_a_factory_that_is_no_name_of_a_function_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"write pkg.mod:build"):
        Recipe(Source(None, factory="nets.py"), "m", Path("out"))


def test_an_unknown_variant_is_refused_with_the_known_ones(source: Path) -> None:
    with pytest.raises(InvalidSetting) as error:
        plain(source, variants=("fp32", "int4"))
    assert "'int4'" in str(error.value)
    assert all(name in str(error.value) for name in ALL_VARIANTS)


def test_an_unknown_metric_is_refused_with_the_known_ones(source: Path) -> None:
    with pytest.raises(InvalidSetting) as error:
        plain(source, bounds=Bounds(metric="f1"))
    assert "'f1'" in str(error.value)
    assert all(name in str(error.value) for name in METRICS)


def test_a_normalization_that_is_none_is_refused_before_anything_is_started(source: Path) -> None:
    with pytest.raises(FarthingError, match="is no normalization"):
        plain(source, uint8="pixels")


@pytest.mark.parametrize("drop", [-0.1, 100.1, float("nan"), float("inf")])
def test_a_drop_out_of_range_is_refused(source: Path, drop: float) -> None:
    with pytest.raises(InvalidSetting, match="0 to 100"):
        plain(source, bounds=Bounds(max_drop=drop))


@pytest.mark.parametrize("ratio", [0.0, -1.0, 100.1, float("nan"), float("inf")])
def test_a_speed_up_out_of_range_is_refused(source: Path, ratio: float) -> None:
    with pytest.raises(InvalidSetting, match="more than 0, at most 100"):
        plain(source, bounds=Bounds(min_speedup=ratio))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bounds": Bounds(tolerance=-0.1)}, "the tolerance is -0.1; it takes 0 to 100"),
        ({"budget": Budget(seconds=-1)}, "the budget in seconds is -1; it takes 0 to 86400"),
        ({"top_k": -1}, "the number of top classes is -1; it takes 0 to 10000"),
        ({"prune": 0.0}, "prune is 0; it takes more than 0, at most 0.9"),
        ({"prune": 0.91}, "prune is 0.91; it takes more than 0, at most 0.9"),
    ],
)
def test_other_numbers_out_of_range_are_refused_with_their_range(
    source: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidSetting) as error:
        plain(source, **changes)
    assert said in str(error.value)


def test_no_memory_at_all_is_refused(source: Path) -> None:
    with pytest.raises(InvalidSetting, match="the memory in GB is -1"):
        Recipe(Source(source, memory_gb=-1), "m", Path("out"))


def test_the_ends_of_the_ranges_are_taken(source: Path) -> None:
    for drop, ratio in ((0.0, 1e-9), (100.0, 100.0)):
        bounds = plain(source, bounds=Bounds(max_drop=drop, min_speedup=ratio)).bounds
        assert (bounds.max_drop, bounds.min_speedup) == (drop, ratio)


def test_the_reference_is_always_wanted_and_first(source: Path) -> None:
    recipe = plain(source, variants=("int8-static", "fp16", "fp16"))
    assert recipe.wanted == ("fp32", "fp16", "int8-static")


def test_the_digest_of_a_file_is_that_of_its_bytes(source: Path) -> None:
    assert Source(source).sha256() == manifest.sha256_of(source) == hashlib.sha256(b"x").hexdigest()


def test_the_digest_of_a_directory_depends_on_all_names_and_contents(tmp_path: Path) -> None:
    def digest(**files: str) -> str:
        where = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, content in files.items():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_text(content)
        return Source(where).sha256()

    one = digest(a="1", b="2")
    assert one == digest(b="2", a="1")
    assert (
        len({one, digest(a="1", b="3"), digest(a="1", c="2"), digest(a="1"), digest(a="12")}) == 5
    )


def test_the_command_reproduces_the_recipe(source: Path, again: Again) -> None:
    recipe = Recipe(
        Source(source, signature="serve it", imports=("my.layers", "more"), trust=True),
        "m",
        Path("it's $HOME; here"),
        calibration=str(source),
        evaluate="my.data:rows",
        variants=("fp16", "int8-static"),
        bounds=Bounds(0.5, 2, "distance", 0.125, accept_unproven=True),
        budget=Budget(seconds=12.5),
        prune=0.4,
        uint8="x:0:scale=1/255:mean=1,2:axis=1",
        top_k=3,
    )
    assert again(recipe) == recipe


def test_the_command_reproduces_a_factorys_recipe(source: Path, again: Again) -> None:
    for weights in (source, None):
        recipe = Recipe(Source(weights, factory="nets:build"), "m", Path("out"))
        assert again(recipe) == recipe


def test_of_a_live_object_the_call_is_told_and_no_file_that_is_gone(source: Path) -> None:
    recipe = Recipe(Source(source, live="Sequential"), "m", Path("out"), calibration=str(source))
    assert recipe.source.told == "Sequential"
    assert recipe.command().startswith("farthing.convert(model, name='m', out='out', ...)")
    assert "Sequential" in recipe.command() and str(source) not in recipe.command()


def test_the_command_leaves_out_what_was_not_given(source: Path, again: Again) -> None:
    recipe = plain(source)
    for option in ("calibration", "evaluate", "uint8", "top-k", "import", "trust", "accept"):
        assert f"--{option}" not in recipe.command()
    assert again(recipe) == recipe


def test_the_command_keeps_every_digit_of_a_bound(source: Path, again: Again) -> None:
    bounds = Bounds(max_drop=0.12345678, min_speedup=1.00000001, tolerance=0.1 + 0.2)
    recipe = dataclasses.replace(plain(source), bounds=bounds, prune=1 / 3)
    assert again(recipe) == recipe
