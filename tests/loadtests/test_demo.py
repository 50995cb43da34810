"""How the machine is divided between the server and the load generator."""

from __future__ import annotations

import pytest

from loadtests.demo import Cores
from service import hardware


@pytest.mark.parametrize("count", [1, 2])
def test_a_small_machine_is_shared_and_paid_for_whole(count: int) -> None:
    cores = Cores.divided(frozenset(range(count)))
    assert (cores.server, cores.generator) == (None, None)
    assert cores.served_on == hardware.cpus()


@pytest.mark.parametrize(
    ("count", "generator"), [(3, {2}), (4, {3}), (7, {6}), (8, {6, 7}), (64, {62, 63})]
)
def test_the_generator_gets_one_cpu_in_four_but_one_at_least_and_two_at_most(
    count: int, generator: set[int]
) -> None:
    available = frozenset(range(count))
    cores = Cores.divided(available)
    assert cores.generator == generator
    assert cores.server == available - generator
    assert cores.served_on == count - len(generator)


def test_only_cpus_that_are_available_are_given_out() -> None:
    cores = Cores.divided(frozenset({3, 9, 17, 40, 41}))
    assert (cores.server, cores.generator) == (frozenset({3, 9, 17, 40}), frozenset({41}))
