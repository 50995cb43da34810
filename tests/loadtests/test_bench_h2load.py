"""h2load's messages, its figures, and what keeps it from counting refusals as answers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from loadtests.bench import __main__ as command
from loadtests.bench import calls, h2load
from loadtests.bench.h2load import H2loadFailed, Measured
from service.proto import inference_pb2 as pb

# As h2load 1.52 printed it; the second is of a server that refused every call.
ANSWERED = """\
starting benchmark...
spawning thread #0: 4 total client(s). 3000 total requests
Application protocol: h2c
progress: 100% done

finished in 1.54s, 1941.82 req/s, 155.78KB/s
requests: 3000 total, 3000 started, 3000 done, 3000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 3000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 240.67KB (246449) total, 9.08KB (9300) headers (space savings 96.17%), 134.77KB (138000) data
                     min         max         mean         sd        +/- sd
time for request:      128us      7.87ms      1.43ms       879us    82.87%
time for connect:      139us       398us       251us       109us    50.00%
time to 1st byte:     1.81ms      4.23ms      3.25ms      1.10ms    75.00%
req/s           :    5374.07     5622.96     5460.89      114.05    75.00%
"""  # noqa: E501
REFUSED = ANSWERED.replace("134.77KB (138000) data", "0B (0) data")


def test_a_framed_message_is_not_compressed_and_tells_its_length() -> None:
    assert calls.framed(b"abc") == b"\x00\x00\x00\x00\x03abc"
    assert struct.unpack(">BI", calls.framed(b"x" * 600_000)[:5]) == (0, 600_000)


def test_a_request_of_16_bytes_carries_them_raw() -> None:
    message = pb.ModelInferRequest.FromString(calls.request("net", calls.random_row(4)))
    assert (message.model_name, list(message.inputs[0].shape)) == ("net", [1, 4])
    assert [len(raw) for raw in message.raw_input_contents] == [16]


def test_the_figures_are_read() -> None:
    assert h2load.parsed(ANSWERED) == Measured(1941.82, 3000, 0, 138_000)


def test_anything_else_that_it_prints_is_an_error_with_its_end() -> None:
    with pytest.raises(H2loadFailed, match="cannot connect"):
        h2load.parsed("h2load: cannot connect")


def test_answers_of_the_right_size_count() -> None:
    measured = h2load.parsed(ANSWERED)
    assert h2load.checked(measured, sent=3000, answer_bytes=41) is measured


def test_refusals_that_look_like_200_to_http_do_not_count() -> None:
    with pytest.raises(H2loadFailed, match="not all were OK"):
        h2load.checked(h2load.parsed(REFUSED), sent=3000, answer_bytes=41)


def test_one_refusal_of_many_does_not_count() -> None:
    one_less = h2load.parsed(ANSWERED.replace("(138000) data", f"({138_000 - 46}) data"))
    with pytest.raises(H2loadFailed, match="137954 bytes where good answers have 138000"):
        h2load.checked(one_less, sent=3000, answer_bytes=41)


def test_one_failure_voids_the_round_though_all_the_bytes_are_there() -> None:
    failed = h2load.parsed(ANSWERED.replace(" 0 failed", " 1 failed"))
    with pytest.raises(H2loadFailed, match=r"3000 of 3000 .* and 1 failed"):
        h2load.checked(failed, sent=3000, answer_bytes=41)


def test_where_it_is_missing_the_sentence_names_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["small"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "h2load" in told and "is missing: install the package nghttp2-client" in told
