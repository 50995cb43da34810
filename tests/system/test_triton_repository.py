"""Load, unload and index, by Triton's own client, with a config and with files of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests import models
from tests.system.callers import refused, tensor
from tests.system.servers import Served, serving

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
Client = triton.InferenceServerClient


@dataclass(frozen=True)
class Place:
    """A model of one test alone."""

    root: Path
    name: str

    def write(self, version: int, factor: float) -> None:
        models.double(self.root / self.name / str(version) / "model.onnx", factor=factor)

    def factor(self, client: Client, version: str = "") -> float:
        """What the model multiplies by."""
        answer = client.infer(self.name, [tensor("x", ROWS)], version)
        return float(answer.as_numpy("y")[0, 1])

    def index(self, client: Client) -> dict[str, tuple[str, str]]:
        told = client.get_model_repository_index().models
        return {m.version: (m.state, m.reason) for m in told if m.name == self.name}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    models.double(root / "first" / "1" / "model.onnx")
    return root


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    with serving(repository, "--control", "repository") as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.grpc) as connected:
        yield connected


@pytest.fixture
def place(repository: Path, request: pytest.FixtureRequest) -> Place:
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return Place(repository, name)


def test_a_model_is_loaded_unloaded_and_loaded_again(client: Client, place: Place) -> None:
    place.write(1, 5)
    assert not client.is_model_ready(place.name)
    client.load_model(place.name)
    assert client.is_model_ready(place.name)
    assert place.factor(client) == 5
    assert place.index(client) == {"1": ("READY", "")}
    client.unload_model(place.name)
    assert not client.is_model_ready(place.name)
    with refused("UNAVAILABLE"):
        place.factor(client)
    client.load_model(place.name)
    assert place.factor(client) == 5


def test_an_unloaded_model_stays_in_the_index(client: Client, place: Place) -> None:
    place.write(1, 5)
    client.load_model(place.name)
    client.unload_model(place.name, unload_dependents=True)
    state, reason = place.index(client)["1"]
    assert (state in ("UNLOADING", "UNAVAILABLE"), reason in ("", "unloaded")) == (True, True)


def test_a_load_serves_the_newest_version(client: Client, place: Place) -> None:
    place.write(1, 5)
    client.load_model(place.name)
    place.write(2, 7)
    assert place.factor(client) == 5
    client.load_model(place.name)
    assert place.factor(client) == 7
    assert client.get_model_metadata(place.name).versions == ["2"]


def test_a_config_of_the_load_takes_the_place_of_the_repositorys(
    client: Client, place: Place
) -> None:
    place.write(1, 5)
    place.write(2, 7)
    config = {"max_batch_size": 1, "version_policy": {"all": {}}}
    client.load_model(place.name, config=json.dumps(config))
    assert client.get_model_config(place.name).config.max_batch_size == 1
    assert place.factor(client) == 7
    (of_two,) = client.get_inference_statistics(place.name, "2").model_stats
    assert {batch.batch_size for batch in of_two.batch_stats} == {1}
    assert sorted(client.get_model_metadata(place.name).versions) == ["1", "2"]
    client.load_model(place.name)
    assert client.get_model_config(place.name).config.max_batch_size == 16
    assert client.get_model_metadata(place.name).versions == ["2"]


def test_files_of_the_load_take_the_place_of_the_repositorys(
    client: Client, place: Place, tmp_path: Path
) -> None:
    place.write(1, 5)
    client.load_model(place.name)
    other = models.double(tmp_path / "model.onnx", factor=11.0).read_bytes()
    client.load_model(place.name, config="{}", files={"file:3/model.onnx": other})
    assert place.factor(client) == 11
    assert place.index(client)["3"] == ("READY", "")
    client.load_model(place.name)
    assert place.factor(client) == 5


def test_a_model_may_come_by_files_alone(client: Client, place: Place, tmp_path: Path) -> None:
    data = models.double(tmp_path / "model.onnx", factor=13.0).read_bytes()
    config = json.dumps({"name": place.name, "default_model_filename": "net.onnx"})
    client.load_model(place.name, config=config, files={"file:1/net.onnx": data})
    assert place.factor(client) == 13
    assert not (place.root / place.name).exists()


@pytest.mark.parametrize(
    "config",
    ['{"max_batch_size": -1}', '{"no_such_field": 1}', "[]", "{", "null", '{"name": "other"}',
     '{"backend": "tensorflow"}', "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000],
    ids=range(9),
)  # fmt: skip
def test_a_config_that_cannot_be_used_changes_nothing(
    client: Client, place: Place, config: str
) -> None:
    place.write(1, 5)
    client.load_model(place.name)
    with refused("INVALID_ARGUMENT"):
        client.load_model(place.name, config=config)
    assert place.factor(client) == 5


@pytest.mark.parametrize(
    "file",
    ["../1/model.onnx", "1/../model.onnx", "1//etc/passwd", "/1/model.onnx", "0/model.onnx",
     "1/a/model.onnx", "1/", "model.onnx", "one/model.onnx", "1/.hidden", "1/a\\b",
     "9" * 30 + "/m"],
    ids=range(12),
)  # fmt: skip
def test_files_that_would_lie_elsewhere_are_refused(
    client: Client, place: Place, file: str
) -> None:
    place.write(1, 5)
    client.load_model(place.name)
    with refused("INVALID_ARGUMENT", "file:VERSION/NAME"):
        client.load_model(place.name, config="{}", files={f"file:{file}": b"data"})
    assert place.factor(client) == 5


@pytest.mark.parametrize("data", [b"", b"no graph at all", b"\x08\x08" * 1000])
def test_a_broken_file_leaves_the_old_version_serving(
    client: Client, place: Place, data: bytes
) -> None:
    place.write(1, 5)
    client.load_model(place.name)
    (place.root / place.name / "1" / "model.onnx").write_bytes(data)
    with refused("INVALID_ARGUMENT", "version 1 cannot be loaded") as refusal:
        client.load_model(place.name)
    assert "/" not in refusal.value.message()
    assert place.factor(client) == 5
    state, reason = place.index(client)["1"]
    assert state == "READY"
    assert "the one before" in reason
    place.write(1, 6)
    client.load_model(place.name)
    assert place.factor(client) == 6
    assert place.index(client) == {"1": ("READY", "")}


def test_a_broken_new_version_leaves_the_old_one_serving(client: Client, place: Place) -> None:
    place.write(1, 5)
    client.load_model(place.name)
    (place.root / place.name / "2").mkdir()
    (place.root / place.name / "2" / "model.onnx").write_bytes(b"no graph")
    with refused("INVALID_ARGUMENT", "version 2 cannot be loaded"):
        client.load_model(place.name)
    assert place.factor(client) == 5
    index = place.index(client)
    assert index["1"] == ("READY", "")
    assert index["2"][0] == "UNAVAILABLE"
    assert index["2"][1]
    with refused("UNAVAILABLE"):
        place.factor(client, "2")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../models", "first/1", "/etc", "a\x00b", "n" * 200]
)
def test_names_that_lead_elsewhere_are_refused(client: Client, name: str) -> None:
    for call in (client.load_model, client.unload_model):
        with refused("INVALID_ARGUMENT", "name must be"):
            call(name)
