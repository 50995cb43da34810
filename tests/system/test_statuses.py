"""Every error that a caller can be told is raised by the real server, and seen by a real client."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

import service
from service import errors
from service.errors import ServingError
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system import strangers
from tests.system.servers import Served, serving
from tests.system.strangers import good, is_clean, numbers

PUSHBACK = "grpc-retry-pushback-ms"
TOKEN = (("authorization", "Bearer sesame"),)
# Long enough to be still running when the next calls come, and too long to be waited for.
LONG, ENDLESS = 6000, 10**9


def subclasses() -> list[type[ServingError]]:
    """All of them, wherever in the service they are."""
    for module in pkgutil.iter_modules(service.__path__, "service."):
        importlib.import_module(module.name)
    found, new = set(), {ServingError}
    while new:
        new = {child for parent in new for child in parent.__subclasses__()} - found
        found |= new
    # Tests make some of their own.
    ours = (error for error in found if error.__module__.startswith("service."))
    return sorted(ours, key=lambda error: error.__name__)


class Place:
    """One server, and calls that carry its token."""

    def __init__(self, channel: grpc.Channel, served: Served) -> None:
        self.stub = GRPCInferenceServiceStub(channel)
        self.served = served

    def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        return self.stub.ModelInfer(request, timeout=30, metadata=TOKEN)

    def later(self, request: pb.ModelInferRequest) -> grpc.Future:
        return self.stub.ModelInfer.future(request, timeout=60, metadata=TOKEN)


@contextmanager
def guarded(root: Path) -> Iterator[Place]:
    repository = strangers.repository(root / "models")
    (root / "tokens").write_text("sesame\n")
    options = ("--no-exit-on-error", "--max-queue-rows", "1", "--drain-s", "1",
               "--control", "shared-memory", "--tokens", str(root / "tokens"))  # fmt: skip
    with (
        serving(repository, *options, log=root / "log") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        yield Place(channel, server)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with guarded(tmp_path_factory.mktemp("guarded")) as place:
        yield place


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Place]:
    with guarded(tmp_path) as place:
        yield place


def invalid_input(at: Place) -> None:
    request = good()
    request.inputs[0].shape[:] = [1, 5]
    at.infer(request)


def model_not_found(at: Place) -> None:
    request = good()
    request.model_name = "nosuch"
    at.infer(request)


def model_not_ready(at: Place) -> None:
    request = good()
    request.model_name = "broken"
    at.infer(request)


def unauthenticated(at: Place) -> None:
    at.stub.ModelInfer(good(), timeout=30)


def forbidden(at: Place) -> None:
    at.stub.RepositoryModelUnload(
        pb.RepositoryModelUnloadRequest(model_name="double"), timeout=30, metadata=TOKEN
    )


def draining(at: Place) -> None:
    long = at.later(numbers("slow", ENDLESS))
    strangers.wait_until_running(at.served, "slow")
    at.served.process.terminate()
    while not long.done():  # it is cut off after a second, and refused calls come before that
        at.infer(good())


def overloaded(at: Place) -> None:
    waiting = [at.later(numbers("slow", LONG)) for _ in range(3)]
    try:
        for call in waiting:  # one runs, one waits, one is too many, in whichever order they came
            call.result()
    finally:
        for call in waiting:
            call.cancel()


def deadline_exceeded(at: Place) -> None:
    request = good()
    request.parameters["timeout"].int64_param = 1
    at.infer(request)


def inference_failed(at: Place) -> None:
    at.infer(numbers("picky", 3))


def unsupported(at: Place) -> None:
    request = pb.RepositoryIndexRequest(repository_name="another")
    at.stub.RepositoryIndex(request, timeout=30, metadata=TOKEN)


# Error -> how a caller comes to it, and part of what it is told.
WAYS: dict[type[ServingError], tuple[Callable[[Place], None], str]] = {
    errors.InvalidInput: (invalid_input, "input 'x' has shape [1, 5]; the model takes"),
    errors.ModelNotFound: (model_not_found, "this server has no model of that name"),
    errors.ModelNotReady: (model_not_ready, "the model is UNAVAILABLE: "),
    errors.Unauthenticated: (unauthenticated, "send one token with this call"),
    errors.Forbidden: (forbidden, "the server's operator allows them with --control repository"),
    errors.Draining: (draining, "the server is shutting down; ask another"),
    errors.Overloaded: (overloaded, "the queue takes 1; try again later"),
    errors.DeadlineExceeded: (deadline_exceeded, "the deadline passed before the model could"),
    errors.InferenceFailed: (inference_failed, "the model failed on this input"),
    errors.Unsupported: (
        unsupported,
        "this server has one repository; leave 'repository_name' empty",
    ),
}


def test_every_error_has_a_way_to_come_to_it() -> None:
    assert set(subclasses()) == set(WAYS)


@pytest.mark.parametrize("error", subclasses(), ids=lambda error: error.__name__)
def test_each_error_reaches_the_caller_as_itself(
    error: type[ServingError], request: pytest.FixtureRequest
) -> None:
    provoke, told = WAYS[error]
    last = error is errors.Draining  # the server's last word
    at: Place = request.getfixturevalue("own" if last else "shared")
    with pytest.raises(grpc.RpcError) as refused:
        provoke(at)
    assert refused.value.code().name == error.status
    assert told in refused.value.details()
    is_clean(refused.value.details())
    metadata = dict(refused.value.trailing_metadata() or ())
    if error is errors.Overloaded:
        assert int(metadata[PUSHBACK]) > 0
    else:
        assert PUSHBACK not in metadata
    if not last:
        assert len(at.infer(good()).raw_output_contents[0]) == 16
