"""Everyone who watches is told, whoever else leaves or does not read."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from service.errors import ModelNotFound
from service.health import Health

SERVING, NOT_SERVING, UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)
NAMES = ("", "liveness", "inference.GRPCInferenceService", "digits")


@pytest.fixture
def health() -> Health:
    made = Health()
    made.start()
    made.set("digits", True)
    return made


def about(name: str) -> Any:
    return health_pb2.HealthCheckRequest(service=name)


async def check(health: Health, name: str) -> int:
    return int((await health.Check(about(name), None)).status)


@pytest.mark.parametrize("name", NAMES)
async def test_server_and_models_are_serving_until_they_leave(health: Health, name: str) -> None:
    assert await check(health, name) == SERVING
    health.leave()
    health.set("digits", True)
    health.start()
    assert await check(health, name) == (SERVING if name == "liveness" else NOT_SERVING)


async def test_a_model_named_like_the_server_changes_nothing_about_it(health: Health) -> None:
    for name in NAMES[:3]:
        health.set(name, False)
        assert await check(health, name) == SERVING


async def test_nothing_is_ready_before_the_start() -> None:
    health = Health()
    assert await check(health, "") == NOT_SERVING and not health.ready
    health.start()
    assert await check(health, "") == SERVING and health.ready


async def test_a_model_that_is_not_ready_does_not_take_the_server_with_it(health: Health) -> None:
    health.set("digits", False)
    assert (await check(health, "digits"), await check(health, "")) == (NOT_SERVING, SERVING)


async def test_an_unknown_name_is_not_found(health: Health) -> None:
    with pytest.raises(ModelNotFound):
        await health.Check(about("nobody"), None)


async def test_watch_tells_the_state_and_each_change(health: Health) -> None:
    async with aclosing(health.Watch(about("digits"), None)) as news:
        told = [(await anext(news)).status]
        health.set("digits", False)
        told.append((await anext(news)).status)
        health.set("digits", True)
        told.append((await anext(news)).status)
        health.leave()
        told.append((await anext(news)).status)
    assert told == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]


async def test_watch_waits_for_a_name_that_nobody_knows_yet(health: Health) -> None:
    async with aclosing(health.Watch(about("later"), None)) as news:
        assert (await anext(news)).status == UNKNOWN
        coming = asyncio.ensure_future(anext(news))
        await asyncio.sleep(0)
        health.set("digits", False)  # no news for this one
        await asyncio.sleep(0)
        assert not coming.done()
        health.set("later", True)
        assert (await coming).status == SERVING


async def test_a_watcher_who_leaves_or_does_not_read_keeps_no_news_from_others(
    health: Health,
) -> None:
    async with (
        aclosing(health.Watch(about(""), None)) as lazy,
        aclosing(health.Watch(about(""), None)) as faithful,
    ):
        leaver = health.Watch(about(""), None)
        for one in (lazy, leaver, faithful):
            assert (await anext(one)).status == SERVING
        await leaver.aclose()
        health.leave()
        assert (await anext(faithful)).status == NOT_SERVING


async def test_server_whose_gpu_fell_over_is_not_alive_whatever_comes_later(
    health: Health,
) -> None:
    assert health.alive
    health.fall()
    health.start()
    health.set("digits", True)
    health.leave()
    assert [await check(health, name) for name in NAMES] == [NOT_SERVING] * 4
    assert not health.alive and not health.ready


async def test_server_that_leaves_while_its_gpu_falls_over_is_not_alive(health: Health) -> None:
    health.leave()
    health.fall()
    assert await check(health, "liveness") == NOT_SERVING
