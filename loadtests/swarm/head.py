"""The one process that begins and ends a run in Locust, and tells its figures.

Without workers it generates too. A run begins when all users could send, and ends with its
schedule, or when someone stops it; either way all parts are heard before Locust stops anybody.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event

from loadtests.swarm import page
from loadtests.swarm.order import LEAD_S, Order, Tally
from loadtests.swarm.worker import Worker
from service.errors import FarthingError

# For the last messages of workers.
_GRACE_S = 5.0


class Head:
    """Begins and ends runs, and adds up what the workers saw."""

    def __init__(self, environment: Any, worker: Worker | None) -> None:
        """Take what workers say from Locust's messages, and show pages beside Locust's own.

        Args:
            environment: Locust's.
            worker: the one of this process, where it has no others.
        """
        self._environment = environment
        self._runner = environment.runner
        self._worker = worker
        self._tally = Tally(Order(), 0)
        self._ended = Event()
        self._ending = self._begun = False
        self._heard = Event()
        for name, listener in (
            ("farthing_ready", self._ready),
            ("farthing_failed", self._failed),
            ("farthing_seen", self._seen),
        ):
            self._runner.register_message(name, listener)
        environment.events.worker_report.add_listener(self._reported)
        environment.events.test_stopping.add_listener(self.cut)
        if environment.web_ui:
            page.add(environment.web_ui.app, self.figures)

    def reset(self) -> None:
        """Another run starts."""
        order = Order.of(self._environment.parsed_options)
        self._tally = Tally(order, self._runner.target_user_count)
        self._ended, self._heard = Event(), Event()
        self._ending = self._begun = False

    def figures(self) -> dict[str, Any]:
        """Of the run that is under way, or of the last one."""
        if self._worker and self._begun and not self._ending:
            self._tally.told("local", self._worker.part.counted(time.perf_counter()), last=False)
        return self._tally.to_dict(ended=self._ended.is_set())

    def cut(self, **_: Any) -> None:
        """End the run though its time is not up; nothing if it is."""
        self._end(cut=True)

    def say(self, **_: Any) -> None:
        """Print the figures of the run that ended, which Locust's own table rounds."""
        print(page.text(self.figures()), flush=True)

    def _end(self, *, cut: bool) -> None:
        """Wait for what all workers have still to send and to hear, and write the results."""
        if self._ending:
            self._ended.wait()
            return
        self._ending = True
        waits_s = self._tally.order.waits_s
        if self._begun:
            for client in self._tally.waits_for:
                self._runner.send_message("farthing_end", {"waits_s": waits_s, "cut": cut}, client)
            self._heard.wait(waits_s + _GRACE_S)
        self._ended.set()
        if results := self._environment.parsed_options.results:
            whole = Path(results).with_suffix(".part")
            whole.write_text(json.dumps(self.figures(), indent=2) + "\n", encoding="utf-8")
            whole.replace(results)

    def _ready(self, msg: Any, **_: Any) -> None:
        if self._begun or not self._tally.ready(msg.node_id, msg.data["user"]):
            return
        try:
            shares = self._tally.deal()
        except FarthingError as error:
            self._fail(str(error))
            return
        self._begun = True
        for client, mine in shares.items():
            self._runner.send_message("farthing_begin", {"shares": mine}, client)
        order = self._tally.order
        gevent.spawn_later(LEAD_S + order.warmup_s + order.seconds, self._over, self._tally)

    def _over(self, tally: Tally) -> None:
        """The time is up: end the run, and Locust's with it."""
        if tally is self._tally and not self._ending:
            self._end(cut=False)
            self._stop()

    def _failed(self, msg: Any, **_: Any) -> None:
        self._fail(msg.data["why"])

    def _fail(self, why: str) -> None:
        if self._tally.failure:
            return
        self._tally.failure = why
        self._environment.process_exit_code = 1
        print(f"farthing: {why}", file=sys.stderr)
        gevent.spawn(self._stop)

    def _stop(self) -> None:
        if self._environment.parsed_options.headless:
            self._runner.quit()
        else:
            self._runner.stop()

    def _seen(self, msg: Any, **_: Any) -> None:
        self._tally.told(msg.node_id, msg.data["part"], last=True)
        if not self._tally.waits_for:
            self._heard.set()

    def _reported(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if "farthing" in data and not self._ended.is_set():
            self._tally.told(client_id, data["farthing"], last=False)
