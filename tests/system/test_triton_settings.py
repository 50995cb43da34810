"""Which extensions a server names, and the trace and log settings among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests import models
from tests.system.callers import refused, tensor
from tests.system.servers import Served, serving

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
Client = triton.InferenceServerClient
Call = Callable[[Client], Any]

ALWAYS = {
    "binary_tensor_data", "classification", "model_configuration", "parameters", "schedule_policy",
    "statistics",
}  # fmt: skip
REPOSITORY = {"model_repository", "model_repository(unload_dependents)"}
SETTINGS = {"trace", "logging"}
MEMORY = {"system_shared_memory"}
CUDA = {"cuda_shared_memory"}
EXTENSIONS = {
    "none": ALWAYS,
    "repository": ALWAYS | REPOSITORY,
    "settings": ALWAYS | SETTINGS,
    "shared-memory": ALWAYS | MEMORY,
    "settings,repository": ALWAYS | SETTINGS | REPOSITORY,
    "cuda-shared-memory": ALWAYS | CUDA,
    "all": ALWAYS | REPOSITORY | SETTINGS | MEMORY,
    "all,cuda-shared-memory": ALWAYS | REPOSITORY | SETTINGS | MEMORY | CUDA,
}
# One RPC of each group, as any client would call it.
GROUPS: dict[str, tuple[set[str], list[Call]]] = {
    "repository": (
        REPOSITORY, [lambda c: c.load_model("double"), lambda c: c.unload_model("other")]
    ),
    "settings": (
        SETTINGS,
        [lambda c: c.get_trace_settings(), lambda c: c.get_log_settings(),
         lambda c: c.update_trace_settings(settings={"trace_rate": "5"}),
         lambda c: c.update_log_settings({"log_verbose_level": 0})],
    ),
    "shared-memory": (
        MEMORY,
        [lambda c: c.get_system_shared_memory_status()],
    ),
    "cuda-shared-memory": (CUDA, [lambda c: c.get_cuda_shared_memory_status()]),
}  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("double", "other"):
        models.double(root / name / "1" / "model.onnx")
    return root


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    with serving(repository, "--control", "settings") as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.grpc) as connected:
        before = connected.get_log_settings().settings
        yield connected
        flags = {key: before[key].bool_param for key in ("log_info", "log_warning", "log_error")}
        connected.update_log_settings({**flags, "log_verbose_level": 0})
        keys = ("trace_level", "trace_rate", "trace_count")
        connected.update_trace_settings(settings=dict.fromkeys(keys))
        for model in ("double", "other"):
            connected.update_trace_settings(model, dict.fromkeys(keys))


@pytest.mark.parametrize("control", EXTENSIONS)
def test_the_extensions_are_those_that_work(repository: Path, control: str) -> None:
    with serving(repository, "--control", control) as server, Client(server.grpc) as client:
        named = list(client.get_server_metadata().extensions)
        assert sorted(named) == sorted(EXTENSIONS[control])
        for extensions, calls in GROUPS.values():
            for call in calls:
                if extensions <= set(named):
                    call(client)
                else:
                    with refused("PERMISSION_DENIED", "--control"):
                        call(client)
        # Triton's examples unregister both kinds before they begin, whichever they use.
        for unregister in (
            client.unregister_system_shared_memory, client.unregister_cuda_shared_memory
        ):  # fmt: skip
            if (MEMORY | CUDA) & set(named):
                unregister()
            else:
                with refused("PERMISSION_DENIED", "--control"):
                    unregister()
        if "shared-memory" not in control and control != "all":
            given = triton.InferInput("x", [2, 4], "FP32").set_shared_memory("region", 32)
            with refused("UNIMPLEMENTED", "--control shared-memory"):
                client.infer("double", [given])
        np.testing.assert_array_equal(
            client.infer("double", [tensor("x", ROWS)]).as_numpy("y"), ROWS * 2
        )


def test_a_control_port_alone_names_and_answers_the_control_rpcs(repository: Path) -> None:
    with (
        serving(repository, "--control", "all,cuda-shared-memory", "--control-port", "0") as server,
        Client(server.grpc) as client,
        Client(f"127.0.0.1:{server.ready['control_port']}") as operator,
    ):
        assert sorted(client.get_server_metadata().extensions) == sorted(EXTENSIONS["none"])
        assert sorted(operator.get_server_metadata().extensions) == sorted(
            EXTENSIONS["all,cuda-shared-memory"]
        )
        for _, calls in GROUPS.values():
            for call in calls:
                with refused("PERMISSION_DENIED"):
                    call(client)
                call(operator)


def trace(client: Client, model: str | None = None) -> dict[str, list[str]]:
    told = client.get_trace_settings(model).settings
    return {key: list(setting.value) for key, setting in told.items()}


def test_trace_settings_of_a_model_stand_above_those_of_all(client: Client) -> None:
    assert trace(client)["trace_level"] == ["OFF"]
    client.update_trace_settings(settings={"trace_rate": "7", "trace_count": "3"})
    client.update_trace_settings("double", {"trace_level": ["TIMESTAMPS"], "trace_rate": "2"})
    own, others = trace(client, "double"), trace(client, "other")
    assert (own["trace_level"], own["trace_rate"]) == (["TIMESTAMPS"], ["2"])
    assert (others["trace_level"], others["trace_rate"]) == (["OFF"], ["7"])
    assert own["trace_count"] == others["trace_count"] == ["3"]
    client.update_trace_settings("double", {"trace_rate": None})
    assert trace(client, "double")["trace_rate"] == ["7"]


@pytest.mark.parametrize(
    "settings",
    [{"trace_file": "/tmp/trace"}, {"trace_level": "EVERYTHING"}, {"trace_rate": "0"},
     {"trace_rate": "many"}, {"trace_count": "-2"}, {"no_such": "1"},
     {"trace_rate": "9", "trace_mode": "opentelemetry"}],
)  # fmt: skip
def test_trace_settings_that_are_none_change_nothing(
    client: Client, settings: dict[str, str]
) -> None:
    before = trace(client)
    with refused("INVALID_ARGUMENT"):
        client.update_trace_settings(settings=settings)
    assert trace(client) == before


def test_log_settings_are_told_and_changed(client: Client) -> None:
    told = client.update_log_settings({"log_info": False, "log_verbose_level": 2}, as_json=True)
    assert told == client.get_log_settings(as_json=True)
    now = client.get_log_settings().settings
    assert now["log_info"].bool_param is False
    assert now["log_warning"].bool_param is True
    assert now["log_verbose_level"].uint32_param == 2


@pytest.mark.parametrize(
    "settings",
    [{"log_file": "/tmp/log"}, {"no_such": 1},
     {"log_info": False, "log_format": "ISO8601"}],
)  # fmt: skip
def test_log_settings_that_are_none_change_nothing(
    client: Client, settings: dict[str, Any]
) -> None:
    before = client.get_log_settings()
    with refused("INVALID_ARGUMENT"):
        client.update_log_settings(settings)
    assert client.get_log_settings() == before


def test_traces_and_verbose_lines_are_written_as_asked(repository: Path) -> None:
    with serving(repository, "--control", "settings") as server:
        with Client(server.grpc) as client:

            def infer(request_id: str, model: str = "double") -> None:
                client.infer(model, [tensor("x", ROWS)], request_id=request_id)

            infer("before")
            client.update_trace_settings(
                "double", {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "2"}
            )
            for number in range(1, 8):
                infer(f"trace {number}")
            infer("not traced", "other")
            client.update_log_settings({"log_verbose_level": 1})
            infer("verbose")
            client.update_log_settings({"log_info": False})
            infer("silent")
        _, log = server.end()
    lines = [json.loads(line) for line in log.splitlines()]
    traces = [line for line in lines if line["message"] == "trace"]
    assert [line["request_id"] for line in traces] == ["trace 2", "trace 4"]
    for line in traces:
        moments = [moment["ns"] for moment in line["timestamps"]]
        assert line["timestamps"][0]["name"] == "REQUEST_START"
        assert moments == sorted(moments)
    named = {line.get("request_id") for line in lines if line not in traces}
    assert "verbose" in named
    assert not {"before", "silent", "not traced"} & named
