"""Trained models that cannot be exported: each refused in one sentence that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter import child, sources
from converter.child import ChildFailed, Limits
from converter.exporters.trained import Request

# Minutes, where the machine has other work.
pytestmark = pytest.mark.timeout(900)
LIMITS = Limits(seconds=300, memory_bytes=6_000_000_000)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("numbers.keras", "IntegerLookup, which has no ONNX form: look the numbers up before"),
        ("text.keras", "split the text into token ids before the model (its vocabulary is"),
        ("code.keras", "holds a Lambda layer, which is code; if you trust the file, add --trust"),
        (
            "unregistered.keras",
            "needs 'Unregistered', which is not registered; decorate it with "
            "@keras.saving.register_keras_serializable(), and name its module with --import",
        ),
        ("unregistered.h5", "needs 'Unregistered', which is not registered"),
        ("unbuilt.keras", "was saved before it was built, so its inputs are unknown; call it"),
        ("odd.keras", "input 'my input-1' of "),
        ("nan.keras", "weight 'broken/kernel' of "),
        ("prose.keras", "prose.keras is not a file of Keras, or is cut off"),
        ("prose.h5", "prose.h5 is not a file of Keras, or is cut off"),
        ("cut.keras", "cut.keras is not a file of Keras, or is cut off"),
        ("old.h5", "was written by Keras 2, and Keras 3 cannot load it"),
        ("old.keras", "pip install 'farthing[cpu,keras2]'"),
        ("mlp.keras with no such import", "--import no_such_module failed (ModuleNotFoundError"),
        ("mlp.keras with a faulty import", "--import faulty failed (ZeroDivisionError"),
        ("mlp.keras with wrong rows", "_rows.npz has no array 'x', which is an input"),
        ("ids.keras with ids out of range", "its own framework fails with "),
        ("two", "has several signatures; choose one with --signature: double, shifted"),
        ("two with no such signature", "has no signature 'third'; it has double, shifted"),
        ("none", "has no signatures; save it with tf.saved_model.save(model, path, signatures"),
        ("anything", "input 'x' may have any number of dimensions; give its tf.TensorSpec"),
        ("mean", "output 'mean' has shape [] for 1 rows, so its rows cannot be told apart"),
        ("rotten", "TensorFlow cannot load "),
        ("prose.tflite", "TFLite cannot load "),
    ],
)
def test_what_cannot_be_exported_is_refused_with_what_to_do(
    built: Path, case: str, sentence: str
) -> None:
    code, said = json.loads((built / "refused.json").read_text())[case]
    assert sentence in said
    assert "\n" not in said
    assert code == 2  # of which no other route can help


def test_code_in_a_file_is_run_where_it_is_trusted(built: Path) -> None:
    assert json.loads((built / "refused.json").read_text())["code.keras trusted"] == [0, ""]


def test_a_refusal_comes_out_of_the_child_and_no_other_route_is_tried(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = []
    run = child.run

    def counted(module: str, arguments: list[str], **named: Any) -> None:
        routes.append(Request.read(tmp_path).route)
        run(module, arguments, **named)

    monkeypatch.setattr(child, "run", counted)
    request = Request("keras", built / "nan.keras", "")
    with pytest.raises(ChildFailed, match=r"weight 'broken/kernel' of .* holds NaN or infinity"):
        sources.export(request, tmp_path, LIMITS)
    assert routes == ["ExportArchive"]


def test_a_missing_framework_is_told_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "tensorflow.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'tensorflow'\")"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    with pytest.raises(ChildFailed) as error:
        sources.export(Request("saved-model", tmp_path / "model", ""), tmp_path, LIMITS)
    assert str(error.value) == (
        f"{tmp_path / 'model'} needs a package that is not installed (No module named "
        "'tensorflow'); pip install 'farthing[cpu,keras]' brings its framework"
    )
