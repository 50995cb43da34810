"""What the load tests' manifests run is run, against a server of its own, for a second."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.k8s.manifest import Manifest
from tests.k8s.rendering import K8S, unrendered
from tests.loadtests.swarming import distributed, fetched, free_port, observed
from tests.system.servers import farthing, serving

# What is another here: one second, a server of its own with a model of its own.
SHORT = {"seconds": "1", "model": "double"}


def arguments(overlay: str, owner: str) -> list[str]:
    pods = {pod.owner: pod for pod in Manifest(unrendered(K8S / "overlays" / overlay)).pods}
    (container,) = pods[owner].containers
    return list(container["args"])


def changed(given: list[str], **other: str) -> list[str]:
    """The same, with other values; each of them must be among what is given."""
    values = SHORT | other
    assert {f"--{name}" for name in values} <= {each.partition("=")[0] for each in given}
    return [
        f"{flag}={values[flag[2:]]}" if flag[2:] in values else flag + sign + value
        for flag, sign, value in (each.partition("=") for each in given)
    ]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "models" / "double" / "1").mkdir(parents=True)
    models.double(tmp_path / "models" / "double" / "1" / "model.onnx")
    with serving(tmp_path / "models") as server:
        yield server.grpc


def test_the_job_measures_and_prints_json(target: str) -> None:
    given = arguments("loadtest-job", "Job farthing-loadtest")
    done = farthing(*changed(given, target=target))
    assert done.returncode in (0, 1), done.stderr  # a machine that is busy makes it void
    assert json.loads(done.stdout)["offered"] == 100


@pytest.mark.slow
def test_locusts_page_starts_what_the_master_is_told_and_workers_send_it(target: str) -> None:
    given = arguments("loadtest-locust", "Deployment farthing-locust")
    port = free_port()
    options = [each for each in changed(given, host=target) if each != "--master"]
    page = f"http://127.0.0.1:{port}"
    with distributed([*options, f"--web-port={port}"], workers=2) as (master, workers):
        until = time.monotonic() + 60
        there: list[dict[str, Any]] = []
        while len(there) < 2:
            assert time.monotonic() < until, f"of two workers the master has {there}"
            for process in (master, *workers):
                assert process.poll() is None, process.communicate()[1]
            there = json.loads(fetched(f"{page}/stats/requests"))["workers"]
            time.sleep(0.1)
        # As the page's form has them: what the master was told.
        fetched(f"{page}/swarm", {"user_count": 32, "spawn_rate": 32, "host": target})
        until = time.monotonic() + 60
        figures: dict[str, Any] = {"ended": False}
        while not figures["ended"]:
            assert time.monotonic() < until, figures
            figures = json.loads(fetched(f"{page}/farthing.json"))
            time.sleep(0.1)
    assert (figures["arrivals"], figures["processes"]) == ("poisson", 2)
    assert observed(figures).offered == 100


def test_locust_knows_all_options_of_master_and_workers() -> None:
    """In a process of its own: importing Locust patches the one that does."""
    code = (
        "import json, sys, loadtests.users\n"
        "from locust.argument_parser import parse_options\n"
        "both = [parse_options(json.loads(given)) for given in sys.argv[1:]]\n"
        "print(json.dumps([[o.master, o.worker, o.master_host, o.master_port] for o in both]))"
    )
    owners = ("Deployment farthing-locust", "Deployment farthing-locust-worker")
    given = [json.dumps(arguments("loadtest-locust", owner)) for owner in owners]
    done = subprocess.run(
        [sys.executable, "-c", code, *given],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        [True, False, "127.0.0.1", 5557], [False, True, "farthing-locust", 5557],
    ]  # fmt: skip
