"""Debian's Prometheus as a process of its own, which scrapes servers and answers queries."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system.servers import Served


@contextmanager
def prometheus(
    served: Served,
    root: Path,
    *,
    every: str = "500ms",
    labels: Mapping[str, str] | None = None,
    rules: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Scrape a server until the end of the block; Prometheus' address.

    Args:
        served: the server.
        root: takes its files.
        every: how often it scrapes, and evaluates rules.
        labels: of the server, beside those of Prometheus itself.
        rules: of a rules file; None for none.
    """
    target = {"targets": [urllib.parse.urlsplit(served.metrics).netloc], "labels": labels or {}}
    config: dict[str, Any] = {
        "global": {"scrape_interval": every, "scrape_timeout": "400ms",
                   "evaluation_interval": every},
        "scrape_configs": [{"job_name": "farthing", "static_configs": [target]}],
    }  # fmt: skip
    if rules is not None:
        (root / "rules.yml").write_text(json.dumps(rules))
        config["rule_files"] = [str(root / "rules.yml")]
    (root / "prometheus.yml").write_text(json.dumps(config))  # YAML takes JSON
    command = [
        "prometheus", f"--config.file={root / 'prometheus.yml'}",
        f"--storage.tsdb.path={root / 'data'}", "--web.listen-address=127.0.0.1:0",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                found = re.search(r'msg="Listening on" address=(\S+)', line)
                if found:
                    break
            else:
                raise AssertionError(f"Prometheus did not start: {''.join(lines)}")
            yield f"http://{found[1]}"
        finally:
            process.terminate()
            process.stderr.read()


def asked(address: str, path: str, **parameters: str) -> Any:
    """The data that Prometheus' API answers with; None where it does not answer yet.

    Raises:
        AssertionError: it refuses the question.
    """
    url = f"{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        return json.load(urllib.request.urlopen(url, timeout=20))["data"]
    except urllib.error.HTTPError as error:
        # Before it is ready it says 503, and of a query that is wrong 400.
        assert error.code == 503, f"{parameters}: {error.read().decode()}"
    except OSError:  # it listens before it answers
        pass
    return None


def value(address: str, query: str) -> float | None:
    """What Prometheus answers to a query for one number; None as long as it has none."""
    data = asked(address, "query", query=query)
    return float(data["result"][0]["value"][1]) if data and data["result"] else None
