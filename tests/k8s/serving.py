"""What a manifest says of our programs agrees with them: settings, options, probes, leaving."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.exceptions import TyperException

from loadtests.loadverb import load
from loadtests.pricing.unitcost import slo
from service.arguments import read
from service.errors import FarthingError
from service.health import LIVENESS, SERVICE
from service.probes import LIVE, READY
from service.settings import Settings
from tests.k8s.manifest import Manifest, Pod

# Of gRPC's health; the empty name is the server as a whole.
_READY_NAMES = ("", SERVICE)
# Verbs that manifests run, beside serve.
Check = Callable[[Manifest], Iterator[str]]
_VERBS: dict[str, Callable[..., None]] = {"load": load, "slo": slo}
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# After the drain: telling late callers to go elsewhere, closing, and sending the last spans.
_GOODBYE_S = 5.0
# Of gRPC's clients at DNS, by default (grpc.dns_min_time_between_resolutions_ms); and how old
# CoreDNS' answers may be, likewise.
_BETWEEN_LOOKS_S, _STALE_S = 30.0, 5.0


def servers(manifest: Manifest) -> Iterator[tuple[Pod, dict[str, Any], Settings]]:
    """Pods with a container that runs `farthing serve`, and the settings that it gets.

    Raises:
        FarthingError: the server would not start with them.
        KeyError: a ConfigMap is missing.
    """
    for pod in manifest.pods:
        for container in pod.containers:
            if container.get("args", ())[:1] == ["serve"]:
                told = manifest.environment(container)
                yield pod, container, read(container["args"][1:], told)


def arguments(manifest: Manifest) -> Iterator[str]:
    """Our own parsers take every option and every variable."""
    try:
        list(servers(manifest))
    except FarthingError as error:
        yield str(error)
    except KeyError as error:
        yield f"the ConfigMap {error} is nowhere"
    for pod in manifest.pods:
        for container in pod.containers:
            given = container.get("args", ())
            if container["image"].startswith("farthing") and "command" not in container:
                yield from (f"{pod.owner}: {wrong}" for wrong in _verb(list(given)))


def _verb(given: list[str]) -> Iterator[str]:
    if given[:1] == ["serve"]:
        return
    if not given or given[0] not in _VERBS:
        yield f"it runs {given[:1]}, which is none of serve, {', '.join(_VERBS)}"
        return
    app = typer.Typer(add_completion=False)
    app.command()(_VERBS[given[0]])
    try:
        typer.main.get_command(app).make_context(given[0], given[1:])
    except TyperException as error:
        yield f"{given[0]}: {error.format_message()}"


def probes(manifest: Manifest) -> Iterator[str]:
    """The kubelet asks for what the server answers, and tells living from ready."""
    for pod, container, settings in servers(manifest):
        asked = [container.get(name) for name in _PROBES]
        if None in asked:
            yield f"{pod.owner} has not all of {', '.join(_PROBES)}"
            continue
        kinds = {"grpc" if "grpc" in probe else "httpGet" for probe in asked}
        if kinds == {"grpc"}:
            if settings.tls_cert or settings.tokens:
                yield f"{pod.owner}: the kubelet has no token, and knows no TLS in gRPC"
            yield from _over_grpc(pod, [probe["grpc"] for probe in asked], settings)
        elif kinds == {"httpGet"}:
            yield from _over_http(pod, [probe["httpGet"] for probe in asked], settings)
        else:
            yield f"{pod.owner} is asked in several ways"


def _over_grpc(pod: Pod, asked: list[dict[str, Any]], settings: Settings) -> Iterator[str]:
    start, ready, live = (each.get("service", "") for each in asked)
    if any(each["port"] != settings.grpc_port for each in asked):
        yield f"{pod.owner}: gRPC is not where the probes ask"
    if start not in _READY_NAMES or ready not in _READY_NAMES:
        yield f"{pod.owner}: health does not tell by {start!r} or {ready!r} whether it is ready"
    if live != LIVENESS:
        yield f"{pod.owner}: by {live!r} a server that drains is dead; ask for {LIVENESS!r}"


def _over_http(pod: Pod, asked: list[dict[str, Any]], settings: Settings) -> Iterator[str]:
    if [each["path"] for each in asked] != [READY, READY, LIVE]:
        yield f"{pod.owner} is not asked for {READY}, {READY} and {LIVE}"
    for each in asked:
        if pod.ports.get(each["port"], each["port"]) != settings.metrics_port:
            yield f"{pod.owner}: health over HTTP is at the metrics port only"


def ports(manifest: Manifest) -> Iterator[str]:
    """The container's ports are those that the server opens."""
    for pod, _, settings in servers(manifest):
        opened = {settings.grpc_port, settings.metrics_port}
        if set(pod.ports.values()) - opened or settings.grpc_port not in pod.ports.values():
            yield f"{pod.owner} has the ports {pod.ports}, and the server {sorted(opened)}"


def leaving(manifest: Manifest) -> Iterator[str]:
    """The kubelet waits longer than leaving takes."""
    for pod, container, settings in servers(manifest):
        slept = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if not slept:
            yield f"{pod.owner} is refused calls that are sent before anybody heard of its end"
        takes_s = slept + settings.grace_s + settings.drain_s + _GOODBYE_S
        granted_s = pod.spec.get("terminationGracePeriodSeconds", 30)
        if granted_s <= takes_s:
            yield f"{pod.owner} is killed after {granted_s} s, and leaving takes {takes_s:g} s"
        # A tenth more or less, as gRPC draws it, and a second for the last call.
        age_s = settings.max_connection_age_s
        if not age_s or 1.1 * age_s + 1 > settings.grace_s:
            yield f"{pod.owner}: connections outlive the {settings.grace_s:g} s of grace"
        elif 0.9 * age_s <= _BETWEEN_LOOKS_S:
            yield f"{pod.owner}: connections end before clients may look for others"


def replacing(manifest: Manifest) -> Iterator[str]:
    """Clients hear of a new pod before the next old one goes."""
    ours = {pod.owner for pod, *_ in servers(manifest)}
    for one in manifest.all("Deployment"):
        name = f"Deployment {one['metadata']['name']}"
        if name in ours and one["spec"].get("minReadySeconds", 0) < _BETWEEN_LOOKS_S + _STALE_S:
            yield f"{name} replaces pods faster than clients hear of it"


CHECKS: tuple[Check, ...] = (arguments, probes, ports, leaving, replacing)
