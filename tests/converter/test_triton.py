"""``config.pbtxt``, read as Triton reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format

from converter import triton
from service import modelconfig
from service.manifest import MODEL_FILE, Manifest, TensorSpec, Variant
from service.proto import inference_pb2 as pb

FP32 = Variant("fp32", True, "it is the reference", MODEL_FILE, "0" * 64, 5)


def contract(*inputs: TensorSpec, batched: bool = True) -> Manifest:
    out = TensorSpec("scores", "FP32", (-1, 10) if batched else (10,))
    return Manifest("digits", batched, inputs, (out,), (FP32,))


# Triton's own messages would clash with ours in one process.
_READ = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(sys.stdin.read(), model_config_pb2.ModelConfig())
print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""


def read_by_triton(text: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", _READ], input=text, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_triton_reads_every_field() -> None:
    many = contract(
        TensorSpec("pixels", "UINT8", (-1, 32, -1, 3)),
        TensorSpec("age", "FP32", (-1,)),
        TensorSpec("name", "BYTES", (-1, 1)),
    )
    assert read_by_triton(triton.config(many)) == {
        "name": "digits",
        "backend": "onnxruntime",
        "max_batch_size": 16,
        "default_model_filename": "model.onnx",
        "input": [
            {"name": "pixels", "data_type": "TYPE_UINT8", "dims": ["32", "-1", "3"]},
            # A dimension, which is then taken away: Triton has no tensors without one.
            {"name": "age", "data_type": "TYPE_FP32", "dims": ["1"], "reshape": {}},
            {"name": "name", "data_type": "TYPE_STRING", "dims": ["1"]},
        ],
        "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": ["10"]}],
    }


def test_our_own_message_reads_it_as_well() -> None:
    text = triton.config(
        contract(TensorSpec("x", "FP16", (-1, 4)), TensorSpec("n", "INT64", (-1,)))
    )
    config = text_format.Parse(text, pb.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 16)
    assert config.default_model_filename == MODEL_FILE
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("x", pb.TYPE_FP16, [4]), ("n", pb.TYPE_INT64, [1])
    ]  # fmt: skip


@pytest.mark.parametrize(("shape", "dims"), [((3, -1), [3, -1]), ((-1,), [-1]), ((), [1])])
def test_a_model_without_batches_keeps_all_its_dimensions(
    shape: tuple[int, ...], dims: list[int]
) -> None:
    text = triton.config(contract(TensorSpec("x", "FP32", shape), batched=False))
    config = text_format.Parse(text, pb.ModelConfig())
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == dims
    # Triton refuses an empty reshape where there is no batch dimension.
    assert "reshape" not in text


@pytest.mark.parametrize(
    "inputs",
    [
        (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("age", "BYTES", (-1,))),
        (TensorSpec("x", "INT64", (-1, -1, 3)),),
    ],
)
@pytest.mark.parametrize("batched", [True, False])
def test_the_server_reads_it_as_the_contract_that_was_published(
    inputs: tuple[TensorSpec, ...], batched: bool, tmp_path: Path
) -> None:
    published = contract(*inputs, batched=batched)
    (tmp_path / triton.FILE).write_text(triton.config(published), encoding="utf-8")
    options = modelconfig.options(modelconfig.read(tmp_path / triton.FILE), "digits")
    assert options.warnings == ()
    assert options.max_batch == (16 if batched else 0)
    served = modelconfig.applied(options, published)
    assert [spec.name for spec in served.inputs] == [spec.name for spec in inputs]
    assert {**{spec.name: spec.shape for spec in served.inputs}, **options.reshapes} == {
        spec.name: spec.shape for spec in inputs
    }


def test_a_scalar_without_a_batch_is_one_of_one_to_callers() -> None:
    published = contract(TensorSpec("t", "FP32", ()), batched=False)
    read = text_format.Parse(triton.config(published), pb.ModelConfig())
    options = modelconfig.fitted(modelconfig.options(read, "digits"), published)
    assert options.reshapes == {"t": ()}
    assert modelconfig.applied(options, published).inputs[0].shape == (1,)


def test_names_with_quotes_and_backslashes_stay_what_they_are() -> None:
    name = 'größe:0 "raw" \\n'
    text = triton.config(contract(TensorSpec(name, "FP32", (-1, 4))))
    assert text_format.Parse(text, pb.ModelConfig()).input[0].name == name
