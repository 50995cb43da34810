"""Pure: what replicas cost on whole machines, since nobody rents half of one."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, inf

from loadtests.plans.autoscaling import Following
from loadtests.prices import Price

# CPU that Kubernetes keeps of a node for itself: a share of the first core, of the next, of two
# more, and of the rest. Google publishes it for GKE ("Plan node sizes"); EKS's images count alike.
_KEPT = ((1.0, 0.06), (1.0, 0.01), (2.0, 0.005), (inf, 0.0025))
ASSUMED = (
    "whole machines hold the replicas that fit beside what Kubernetes keeps of their CPU (6 % of "
    "the first core, 1 % of the next, 0.5 % of two more, 0.25 % of the rest, as on GKE and EKS), "
    "nothing else runs there, and they come and go with the replicas"
)


def allocatable(cpus: float) -> float:
    """CPUs of a machine that its pods may have."""
    kept, left = 0.0, cpus
    for cores, share in _KEPT:
        kept += share * min(cores, left)
        left -= min(cores, left)
    return cpus - kept


@dataclass(frozen=True)
class Machines:
    """Machines of one kind, for replicas of one kind.

    Attributes:
        price: of a whole one.
        cpus: of a replica.
    """

    price: Price
    cpus: float

    @property
    def holds(self) -> int:
        """Replicas on one machine; 0 if none fits. An accelerator's machine is one replica's."""
        fit = floor(allocatable(self.price.cpus) / self.cpus + 1e-9)
        return min(1, fit) if self.price.accelerators else fit

    def usd_per_hour(self, fleet: Following) -> float:
        """Of all machines that a fleet takes, over its time."""
        steps = tuple((begin, float(ceil(number / self.holds))) for begin, number in fleet.steps)
        return Following(steps, fleet.seconds).mean * self.price.usd_per_hour

    @property
    def refused(self) -> str:
        """That no replica fits, and what to do; empty where one does."""
        if self.holds:
            return ""
        return (
            f"a replica of {self.cpus:g} CPUs fits on no {self.price.id}: Kubernetes leaves "
            f"{allocatable(self.price.cpus):.2f} of its {self.price.cpus}; measure one with fewer "
            "CPUs, or take a larger machine"
        )
