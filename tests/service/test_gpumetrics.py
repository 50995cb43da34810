"""What Prometheus sees of GPUs: our names and Triton's, and nothing that no card told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families as parsed

from service.bill import BUSY, GPU, Price
from service.gpuwatch import Watch
from service.ledger import Ledger, Ticket
from service.metrics import Metrics
from service.nvml import Reading
from service.statistics import Book
from tests.cards import MIB, TOLD, FakeCard
from tests.fakes import ManualClock
from tests.service.scraped import LABELS

Sample = tuple[str, frozenset[tuple[str, str]]]


class Server:
    """One on these GPUs, which has run for 10 s, 6 of them for answers."""

    def __init__(self, *cards: FakeCard, price: Price | None = None) -> None:
        self.clock = ManualClock()
        self.watch = Watch(cards, self.clock)
        energy = self.watch if self.watch.tells_energy else None
        self.ledger = Ledger(
            cores=len(cards), clock=self.clock, unit=GPU, energy=energy, price=price
        )
        self.ledger.ready()
        self.ledger.know(LABELS)
        book = Book(self.clock, ledger=self.ledger, gpus=self.watch.seen)
        self.metrics = Metrics(CollectorRegistry(), book, models=list)
        ticket = Ticket(LABELS, 1)
        self.ledger.begin(ticket, 1)
        self.clock.advance(6.0)
        self.ledger.end(ticket, BUSY)
        self.clock.advance(4.0)

    def samples(self) -> dict[Sample, float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parsed(self.metrics.text().decode())
            for sample in family.samples
        }

    def named(self, name: str) -> dict[str, float]:
        """Value by the kind, the reason, or how."""
        return {
            dict(labels).get("kind", dict(labels).get("reason", dict(labels).get("how", ""))): value
            for (found, labels), value in self.samples().items()
            if found == name
        }


def one() -> Server:
    card = FakeCard(TOLD, index=3, uuid="GPU-a")
    server = Server(card)
    card.now = Reading(**{**vars(TOLD), "energy_j": 3500.0})
    server.watch.look()
    return server


def test_each_figure_has_our_name_with_index_and_uuid() -> None:
    found = one().samples()
    gpu = frozenset({("gpu", "3"), ("uuid", "GPU-a")})
    assert {
        name: found[f"farthing_gpu_{name}", gpu]
        for name in (
            "busy_ratio", "memory_bytes", "memory_used_bytes", "own_memory_bytes", "power_watts",
            "power_limit_watts", "temperature_celsius", "ecc_errors", "watched_seconds_total",
            "busy_seconds_total",
        )
    } == {
        "busy_ratio": 0.5, "memory_bytes": 1024 * MIB, "memory_used_bytes": 256 * MIB,
        "own_memory_bytes": 128 * MIB, "power_watts": 250.0, "power_limit_watts": 700.0,
        "temperature_celsius": 61.0, "ecc_errors": 2.0, "watched_seconds_total": 10.0,
        "busy_seconds_total": 5.0,
    }  # fmt: skip
    assert found["farthing_gpu_energy_joules_total", gpu | {("how", "counter")}] == 2500.0
    assert found["farthing_gpu_info", gpu | {("name", "NVIDIA T4")}] == 1.0
    assert one().named("farthing_gpu_slowed") == {"power": 0.0, "heat": 1.0, "hardware": 0.0}


def test_tritons_names_have_tritons_units_and_label() -> None:
    found, gpu = one().samples(), frozenset({("gpu_uuid", "GPU-a")})
    # The client library's parser writes _total behind each counter; the page itself has none.
    named = {name.removesuffix("_total"): v for (name, labels), v in found.items() if labels == gpu}
    assert "nv_energy_consumption_total" not in one().metrics.text().decode()
    assert named == {
        "nv_gpu_utilization": 0.5, "nv_gpu_memory_total_bytes": 1024 * MIB,
        "nv_gpu_memory_used_bytes": 256 * MIB, "nv_gpu_power_usage": 250.0,
        "nv_gpu_power_limit": 700.0, "nv_energy_consumption": 2500.0,
    }  # fmt: skip
    kinds = {family.name: family.type for family in parsed(one().metrics.text().decode())}
    assert (kinds["nv_gpu_power_usage"], kinds["nv_energy_consumption"]) == ("gauge", "counter")


def test_what_a_card_does_not_tell_has_no_sample() -> None:
    silent = {name for name, _ in Server(FakeCard(Reading())).samples()}
    told = {name for name, _ in one().samples()}
    gone = {name for name in told - silent if "gpu" in name or "energy" in name}
    assert len(gone) == 19
    assert {name for name in silent if "farthing_gpu_" in name} == {
        "farthing_gpu_watched_seconds_total", "farthing_gpu_seconds_total", "farthing_gpu_info",
    }  # fmt: skip


def test_energy_by_power_says_so() -> None:
    server = Server(FakeCard(Reading(power_w=100.0)))
    server.watch.look()
    assert server.named("farthing_gpu_energy_joules_total") == {"power": 1000.0}


def test_ledger_of_gpus_is_of_gpu_seconds_and_names_no_cores() -> None:
    server = Server(FakeCard(TOLD), FakeCard(TOLD, index=1, uuid="GPU-b"), price=Price(9.0, "one"))
    assert server.named("farthing_gpu_seconds_total") == {
        "busy": 6.0, "waste": 0.0, "warm_up": 0.0, "idle": 14.0, "serving": 0.0,
    }  # fmt: skip
    assert server.named("farthing_paid_gpu_seconds_total") == {"": 20.0}
    assert server.named("farthing_gpus") == {"": 2.0}
    assert not [name for name, _ in server.samples() if "core" in name]


def test_energy_of_the_lines_is_what_the_cards_counted() -> None:
    server = one()
    lines = server.named("farthing_energy_joules_total")
    assert {kind: joules for kind, joules in lines.items() if joules} == {
        "busy": 1500.0, "idle": 1000.0,
    }  # fmt: skip
    assert server.named("farthing_unsettled_energy_joules") == {"": 0.0}


def test_server_without_gpus_shows_none_of_it() -> None:
    book = Book(ManualClock())
    text = Metrics(CollectorRegistry(), book, models=list).text().decode()
    assert "gpu" not in text
    assert "joules" not in text
