"""What Prometheus sees of the ledger: all lines of one moment, whose sum is what is paid."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families as parsed

from service.bill import BUSY, WASTE, Price
from service.ledger import Ledger, Ticket
from service.metrics import Metrics
from service.statistics import Book
from tests.fakes import ManualClock
from tests.service.scraped import LABELS

MODEL = dict(zip(("model", "version", "variant"), LABELS, strict=True))
NOBODY = {"model": "", "version": "", "variant": ""}


class Shop:
    """A ledger of two cores with its metrics."""

    def __init__(self, price: Price | None = None) -> None:
        self.clock, self.front_s = ManualClock(), 0.0
        self.ledger = Ledger(
            cores=2.0, clock=self.clock, cpu=lambda: self.front_s, age_s=1.0, price=price
        )
        self.ledger.know(LABELS)
        book = Book(self.clock, ledger=self.ledger)
        self.metrics = Metrics(CollectorRegistry(), book, models=list)

    def samples(self) -> dict[tuple[str, str, str], float]:
        """Of one scrape: name, model and kind -> value."""
        return {
            (sample.name, sample.labels.get("model", ""), sample.labels.get("kind", "")):
                sample.value
            for family in parsed(self.metrics.text().decode())
            for sample in family.samples
        }  # fmt: skip

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def test_every_line_is_shown_and_one_scrape_adds_up() -> None:
    shop = Shop()
    shop.clock.advance(1.0)
    shop.ledger.ready()
    settled, running = Ticket(LABELS, 4), Ticket(LABELS, 1)
    shop.ledger.begin(settled, 1)
    shop.ledger.begin(running, 1)
    shop.clock.advance(0.75)
    shop.ledger.end(settled)
    shop.ledger.settle(settled, 3, BUSY)
    shop.ledger.settle(settled, 1, WASTE)
    shop.clock.advance(0.25)
    shop.front_s = 0.125
    found, counter = shop.samples(), "farthing_core_seconds_total"
    assert found[counter, "digits", "busy"] == 0.5625
    assert found[counter, "digits", "waste"] == 0.1875
    assert found[counter, "digits", "warm_up"] == 0.0
    assert found["farthing_unsettled_core_seconds", "digits", ""] == 1.0
    assert found[counter, "", "serving"] == 0.125
    assert found[counter, "", "idle"] == 0.125
    assert found[counter, "", "warm_up"] == 4.0
    lines = sum(core_s for (name, _, _), core_s in found.items() if name == counter)
    assert lines + 1.0 == found["farthing_paid_core_seconds_total", "", ""] == 6.0
    assert found["farthing_cores", "", ""] == 2.0


def test_model_that_has_done_nothing_yet_has_its_lines() -> None:
    shop = Shop()
    for kind in ("busy", "waste", "warm_up"):
        assert shop.value("farthing_core_seconds_total", **MODEL, kind=kind) == 0.0
    assert shop.value("farthing_unsettled_core_seconds", **MODEL) == 0.0
    assert shop.value("farthing_core_seconds_total", **NOBODY, kind="idle") == 0.0


def test_price_is_shown_where_it_is_known_with_where_it_is_from() -> None:
    name = "farthing_price_usd_per_hour"
    assert Shop(Price(0.17, "c6i.xlarge")).value(name, price="c6i.xlarge") == 0.17
    assert name not in Shop().metrics.text().decode()


def test_ledgers_counters_are_counters() -> None:
    kinds = {family.name: family.type for family in parsed(Shop().metrics.text().decode())}
    assert kinds["farthing_core_seconds"] == kinds["farthing_paid_core_seconds"] == "counter"
    assert kinds["farthing_unsettled_core_seconds"] == kinds["farthing_cores"] == "gauge"
