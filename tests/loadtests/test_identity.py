"""Who is measured: what servers tell, and what their users say."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.pricing import identity
from loadtests.pricing.identity import Said
from service.errors import InvalidSetting
from service.proto import inference_pb2 as pb

SERVER = pb.ServerMetadataResponse(name="triton", version="2.51.0")


def config(**parameters: str) -> pb.ModelConfig:
    made = pb.ModelConfig(name="net")
    for name, text in parameters.items():
        made.parameters[name].string_value = text
    return made


FARTHING = config(
    variant="int8-static", variant_sha256="ab" * 32, variant_accuracy="0.97",
    variant_drop_points="0.25", variant_reason="fast", intra_op_thread_count="2",
)  # fmt: skip


def told(config: pb.ModelConfig | None, said: Said | None = None):
    return identity.subject(SERVER, config, said or Said(), model="net", version="1")


def test_farthing_tells_variant_digest_and_what_was_measured() -> None:
    found = told(FARTHING)
    assert (found.server, found.model, found.version) == ("triton 2.51.0", "net", "1")
    assert (found.variant, found.sha256) == ("int8-static", "ab" * 32)
    assert (found.accuracy, found.accuracy_change) == (0.97, -0.25)


def test_the_reference_has_lost_nothing_against_itself() -> None:
    assert told(config(variant="fp32", variant_sha256="c")).accuracy_change == 0.0


def test_a_file_that_nobody_judged_has_no_accuracy() -> None:
    found = told(config(variant="as-is", variant_sha256="c"))
    assert (found.accuracy, found.accuracy_change) == (None, None)


@pytest.mark.parametrize("config", [None, config(), config(execution_mode="1", variant="")])
def test_a_server_that_tells_nothing_leaves_nothing(config: pb.ModelConfig | None) -> None:
    found = told(config)
    assert (found.variant, found.sha256, found.accuracy_change, found.bytes) == (None,) * 4


def test_what_the_user_says_wins() -> None:
    said = Said("fp16", sha256="d", bytes=7, accuracy=0.5, accuracy_change=0.0)
    for each in (None, FARTHING):
        found = told(each, said)
        assert (found.variant, found.sha256, found.bytes) == ("fp16", "d", 7)
        assert (found.accuracy, found.accuracy_change) == (0.5, 0.0)


def test_a_figure_that_is_no_number_is_none() -> None:
    assert told(config(variant="x", variant_accuracy="good")).accuracy is None


def test_a_server_without_metadata_has_no_name() -> None:
    assert identity.subject(None, None, Said(), model="net", version="").server == ""


def test_a_files_digest_and_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"abc")
    digest, size = identity.file_said(path)
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert size == 3


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"missing.onnx cannot be read"):
        identity.file_said(tmp_path / "missing.onnx")


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "7", "a lot"])
def test_an_accuracy_that_none_can_be_is_none(text: str) -> None:
    found = told(config(variant="int8", variant_accuracy=text, variant_drop_points="nan"))
    assert (found.accuracy, found.accuracy_change) == (None, None)


def test_names_of_a_server_are_plain_text() -> None:
    server = pb.ServerMetadataResponse(name="x\x1b[31m" * 10**5, version="1\n2")
    subject = identity.subject(server, config(variant="a\nb\x00"), Said(), model="m", version="")
    assert subject.server.isprintable() and len(subject.server) == 300
    assert subject.variant == "a b"
