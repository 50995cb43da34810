"""A DNS server of one name, whose addresses are those of the replicas that are ready.

It stands for a headless Service, with a cache in front that is as old as the records' time to live
allows: clients see what was true up to so long ago, as CoreDNS and node-local caches show it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from dnslib import QTYPE, RCODE, RR, A, DNSRecord

NAME = "farthing-headless.farthing.svc.cluster.local"
# CoreDNS' plugin kubernetes, by default.
TTL_S = 5


class _Answers(asyncio.DatagramProtocol):
    def __init__(self, ready: Callable[[], list[str]]) -> None:
        self._ready = ready
        self._cached: list[str] = []
        self._until = 0.0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        asked = DNSRecord.parse(data)
        answer = asked.reply()
        if str(asked.q.qname).rstrip(".") != NAME:
            answer.header.rcode = RCODE.NXDOMAIN
        elif asked.q.qtype == QTYPE.A:
            for address in self._addresses():
                answer.add_answer(RR(asked.q.qname, QTYPE.A, rdata=A(address), ttl=TTL_S))
        self._transport.sendto(answer.pack(), addr)

    def _addresses(self) -> list[str]:
        if time.monotonic() >= self._until:
            self._cached, self._until = self._ready(), time.monotonic() + TTL_S
        return self._cached


@asynccontextmanager
async def naming(ready: Callable[[], list[str]]) -> AsyncIterator[int]:
    """Answer on loopback until the end; the port."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Answers(ready), local_addr=("127.0.0.1", 0)
    )
    try:
        yield int(transport.get_extra_info("sockname")[1])
    finally:
        transport.close()
