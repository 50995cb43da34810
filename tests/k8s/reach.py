"""Who may reach whom by network policies: a connection needs the leave of both its ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from tests.k8s.manifest import selects
from tests.k8s.rendering import Document

# A namespace's label with its name, which the API server sets itself.
_NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class End:
    """A pod, by its labels, or what is no pod, by its address.

    Attributes:
        labels: its own.
        namespace: labels of its namespace; empty for the one that the policies are in.
        address: of what is no pod.
    """

    labels: dict[str, str] = field(default_factory=dict)
    namespace: dict[str, str] = field(default_factory=dict)
    address: str = ""

    @classmethod
    def elsewhere(cls, name: str, **labels: str) -> End:
        """Any pod of another namespace."""
        return cls({}, {_NAME: name} | labels)


def allowed(
    policies: Sequence[Document], source: End, target: End, port: int, protocol: str = "TCP"
) -> bool:
    """Whether policies let a connection be; ends in other namespaces have none of their own."""
    into = _Way(port, protocol, "ingress", "from")
    out = _Way(port, protocol, "egress", "to")
    return (bool(target.namespace) or into.open(policies, target, source)) and (
        bool(source.namespace) or out.open(policies, source, target)
    )


@dataclass(frozen=True)
class _Way:
    """One of the two ways that policies look at."""

    port: int
    protocol: str
    key: str
    peers: str

    def open(self, policies: Sequence[Document], pod: End, other: End) -> bool:
        """Whether a pod may be reached by another, or reach it; whom no policy selects may all."""
        mine = [
            one["spec"]
            for one in policies
            if selects(one["spec"]["podSelector"], pod.labels)
            and self.key.capitalize() in one["spec"]["policyTypes"]
        ]
        return not mine or any(
            self._rule(rule, other) for spec in mine for rule in spec.get(self.key, ())
        )

    def _rule(self, rule: dict[str, Any], other: End) -> bool:
        ports = [(port["port"], port.get("protocol", "TCP")) for port in rule.get("ports", ())]
        peers = rule.get(self.peers, ())
        return (not ports or (self.port, self.protocol) in ports) and (
            not peers or any(_matches(peer, other) for peer in peers)
        )


def _matches(peer: dict[str, Any], other: End) -> bool:
    if other.address or "ipBlock" in peer:
        block = peer.get("ipBlock")
        return bool(
            block and other.address and ip_address(other.address) in ip_network(block["cidr"])
        )
    if "namespaceSelector" in peer:
        if not other.namespace or not selects(peer["namespaceSelector"], other.namespace):
            return False
    elif other.namespace:
        return False
    return selects(peer.get("podSelector", {}), other.labels)
