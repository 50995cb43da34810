"""Pure: what was measured, and what all figures of it depend on."""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.prices import Price


@dataclass(frozen=True)
class Subject:
    """What was measured; None where the server does not tell, and nobody said it.

    Attributes:
        server: name and version, of ServerMetadata.
        model: its name.
        version: its version.
        variant: of the model, such as int8-static.
        sha256: digest of the model's file.
        accuracy: on held-out rows, 0 to 1.
        accuracy_change: over the trained model, in points (0.1 is a tenth of a percent).
        bytes: of the model's file.
        memory_bytes: resident, of the serving process.
    """

    server: str
    model: str
    version: str = ""
    variant: str | None = None
    sha256: str | None = None
    accuracy: float | None = None
    accuracy_change: float | None = None
    bytes: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Conditions:
    """What all figures depend on.

    Attributes:
        date: of the measurement, ISO.
        hardware: the serving machine, as ``service.hardware`` names it, or as the user did.
        cpus: of each such machine that are paid for.
        price: of the price book; None where none was given.
        shared: whether the generator shared cores with the server.
        rows: in each request.
        payload: what was sent, in words.
        deadline_ms: of each call.
        seed: of the arrivals.
        generator: version of what measured.
        replicas: servers that shared the calls.
        local: of them those on the generator's machine, which share the CPUs that are paid for;
            each other one is taken for a machine of its own.
        instances: runs at the same time on each of them.
        gpus: of each machine's accelerators those that are paid for, in fractions where a card is
            shared; 0 is all of them.
    """

    date: str
    hardware: str
    cpus: float
    price: Price | None
    shared: bool
    rows: int
    payload: str
    deadline_ms: float
    seed: int
    generator: str
    replicas: int = 1
    instances: int = 1
    local: int = 0
    gpus: float = 0.0

    @property
    def machines(self) -> int:
        """How many are paid for."""
        return self.replicas - self.local + (self.local > 0)

    @property
    def usd_per_hour(self) -> float | None:
        """Of one machine's CPUs that are paid for, in proportion; None without a price."""
        return self.price.share_per_hour(self.cpus, self.gpus) if self.price else None

    @property
    def fleet_usd_per_hour(self) -> float | None:
        """Of all machines together; None without a price."""
        return None if self.usd_per_hour is None else self.machines * self.usd_per_hour

    @property
    def price_said(self) -> str:
        """What is paid for, in words; empty without a price."""
        if self.price is None:
            return ""
        said = f"{self.price.said(self.cpus, self.gpus)}, at that rate without a pause"
        return said if self.machines == 1 else f"{self.machines} machines, each {said}"
