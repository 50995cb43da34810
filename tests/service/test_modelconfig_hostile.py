"""A config that is none is refused, whoever wrote it and in whichever form."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from service import modelconfig
from service.errors import FarthingError, InvalidInput, ModelUnusable
from service.proto import inference_pb2 as pb

TEXT = """
name: "größe" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
dynamic_batching { priority_levels: 1 priority_queue_policy [ { key: 1 value { } } ] }
parameters { key: "intra_op_thread_count" value { string_value: "3" } }
"""
WHOLE = text_format.Parse(TEXT, pb.ModelConfig())


@pytest.mark.parametrize(
    "data",
    [b"max_batch: 8", b"name: ", b"\xff\xfe", b'name: "\\xff"', b"max_batch_size: 99999999999",
     b"input { data_type: TYPE_FP99 }", b" " * (2**20 + 1)],
)  # fmt: skip
def test_a_file_that_is_no_config_is_refused_without_telling_strangers_its_path(
    data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_bytes(data)
    with pytest.raises(ModelUnusable, match=r"config\.pbtxt") as refused:
        modelconfig.read(path)
    assert str(tmp_path) not in refused.value.told


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable):
        modelconfig.read(tmp_path / "config.pbtxt")


def test_a_file_is_read_as_its_text(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(TEXT, encoding="utf-8")
    assert modelconfig.read(tmp_path / "config.pbtxt") == WHOLE


def test_json_says_the_same_as_text() -> None:
    for proto_names in (True, False):
        sent = json_format.MessageToJson(WHOLE, preserving_proto_field_name=proto_names)
        assert modelconfig.from_json(sent) == WHOLE


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "JSON"),
        ("[]", "JSON"),
        ("null", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"input":' * 100_000 + "1" + "}" * 100_000, "JSON"),
        ('{"max_batch_size": ' + "9" * 5000 + "}", "JSON"),
        ('{"max_batch": 8}', "max_batch"),
        ('{"max_batch_size": 1e400}', "max_batch_size"),
        ('{"input": [{"data_type": "TYPE_FP99"}]}', "input"),
        ('{"name": "\\ud800"}', "name"),
        ('{"name": "a", "name": "b"}', "twice"),
        ('{"dynamic_batching": {}, "sequence_batching": {}}', "contradict"),
        (json.dumps({"name": "x" * 2**20}), "shorter"),
    ],
    ids=range(13),
)
def test_json_that_is_no_config_is_the_callers_mistake(text: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        modelconfig.from_json(text)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_our_own_errors(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.pbtxt"
    path.write_bytes(data)
    with suppress(FarthingError):
        modelconfig.options(modelconfig.read(path), "m")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "dims", "key", "count", "latest"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)
_FIELDS = [each.name for each in pb.ModelConfig.DESCRIPTOR.fields]


@settings(max_examples=60, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=4))
def test_random_json_raises_nothing_but_our_own_errors(fields: dict[str, Any]) -> None:
    with suppress(FarthingError):
        modelconfig.options(modelconfig.from_json(json.dumps(fields)), "m")


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60))
def test_messages_of_random_bytes_raise_nothing_but_our_own_errors(data: bytes) -> None:
    config = pb.ModelConfig()
    with suppress(FarthingError, DecodeError):
        config.ParseFromString(data)
        modelconfig.options(config, "m")
