"""Every answer to a caller has a status that gRPC knows."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from service import errors
from service.errors import Overloaded, ServingError


def below(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from below(subclass)


ANSWERS = sorted(below(ServingError), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ANSWERS)
def test_status_is_one_of_grpcs_and_is_no_success(kind: type[ServingError]) -> None:
    assert kind.status in {code.name for code in grpc.StatusCode} - {"OK", "UNKNOWN"}


@pytest.mark.parametrize("kind", ANSWERS)
def test_tree_at_the_top_of_the_file_says_the_same_status(kind: type[ServingError]) -> None:
    lines = [line.split() for line in (errors.__doc__ or "").splitlines()]
    (drawn,) = [line for line in lines if kind.__name__ in line]
    assert kind.status in drawn


def test_refusal_for_load_carries_its_pushback() -> None:
    refused = Overloaded("full", retry_after_ms=250)
    assert (str(refused), refused.retry_after_ms) == ("full", 250)
