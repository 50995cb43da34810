"""Which versions ``config.pbtxt`` has served, how its requests may wait, and for how long."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.batching import QueuePolicy
from service.configfields import LATENCY_TARGET, unusable
from service.proto import inference_pb2 as pb

_NUMBER = re.compile(r"[0-9]{1,7}(\.[0-9]{1,9})?")
_LONGEST_MS = 3_600_000  # as of the knob of the same name


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are served.

    Attributes:
        kind: ``latest``, ``all`` or ``specific``.
        count: how many, of ``latest``.
        versions: which ones, of ``specific``.
    """

    kind: str = "latest"
    count: int = 1
    versions: tuple[int, ...] = ()

    def pick(self, available: Sequence[int]) -> list[int]:
        """Those of the available versions that are served, oldest first."""
        found = sorted(set(available))
        if self.kind == "latest":
            return found[-self.count :]
        if self.kind == "specific":
            return [version for version in found if version in self.versions]
        return found


@dataclass(frozen=True)
class Queueing:
    """The queue of a model.

    Attributes:
        levels: priorities are 1 (first) to this; 0 where there are none.
        default_level: of requests that bring none; 0 where there are no levels.
        policy: of the levels that have none of their own.
        policies: level -> its own policy.
    """

    levels: int = 0
    default_level: int = 0
    policy: QueuePolicy = field(default_factory=QueuePolicy)
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)


def version_policy(config: pb.ModelConfig) -> VersionPolicy:
    """The version policy, by default the latest version alone.

    Raises:
        ModelUnusable: it would serve nothing, or names what is no version.
    """
    policy = config.version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "latest" and policy.latest.num_versions == 0:
        raise unusable("version_policy latest has num_versions 0; it takes 1 or more")
    if kind == "specific":
        versions = tuple(policy.specific.versions)
        if not versions or min(versions) < 1:
            raise unusable("version_policy specific needs versions, each 1 or more")
        return VersionPolicy("specific", versions=versions)
    if kind == "all":
        return VersionPolicy("all")
    return VersionPolicy(count=policy.latest.num_versions or 1)


def latency_target_ms(config: pb.ModelConfig) -> float | None:
    """Milliseconds after which an answer of this model is worthless; None if nothing is said.

    Raises:
        ModelUnusable: it is no number, or not one of those that ``--latency-target-ms`` takes.
    """
    if LATENCY_TARGET not in config.parameters:
        return None
    said = config.parameters[LATENCY_TARGET].string_value
    if not _NUMBER.fullmatch(said) or not 0 < float(said) <= _LONGEST_MS:
        raise unusable(
            f"parameters {LATENCY_TARGET} is {said!r}; it takes milliseconds such as 100 or 2.5, "
            f"above 0 and up to {_LONGEST_MS}"
        )
    return float(said)


def queueing(config: pb.ModelConfig) -> Queueing:
    """Priority levels and queue policies.

    Triton's rules (core, ValidateModelConfig): with levels, the default must be one of them, and
    an order that is to be kept allows neither levels nor delays.

    Raises:
        ModelUnusable: they contradict each other or ``max_batch_size``.
    """
    batching = config.dynamic_batching
    _check_sizes(batching.preferred_batch_size, config.max_batch_size)
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        raise unusable(
            f"default_priority_level is {default}; with priority_levels {levels} it takes 1 to "
            f"{levels}"
        )
    if default and not levels:
        raise unusable(f"default_priority_level is {default}, and there are no priority_levels")
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            raise unusable(
                f"priority_queue_policy has level {level}, and priority_levels is {levels}"
            )
    every = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    if batching.preserve_ordering and levels > 1:
        raise unusable(f"preserve_ordering contradicts priority_levels {levels}")
    if batching.preserve_ordering and any(_delays(policy) for policy in every):
        raise unusable("preserve_ordering contradicts timeout_action DELAY")
    return Queueing(
        levels=levels,
        default_level=default,
        policy=_policy(batching.default_queue_policy),
        policies={
            level: _policy(policy) for level, policy in batching.priority_queue_policy.items()
        },
    )


def _check_sizes(preferred: Sequence[int], max_batch: int) -> None:
    for size in preferred:
        if not 1 <= size <= max_batch:
            raise unusable(
                f"preferred_batch_size {size} is not between 1 and max_batch_size, which is "
                f"{max_batch}"
            )


def _delays(policy: pb.ModelQueuePolicy) -> bool:
    return bool(
        policy.default_timeout_microseconds
        and policy.timeout_action == pb.ModelQueuePolicy.TimeoutAction.DELAY
    )


def _policy(policy: pb.ModelQueuePolicy) -> QueuePolicy:
    timeout_us = policy.default_timeout_microseconds
    return QueuePolicy(
        timeout_s=timeout_us / 1e6 if timeout_us else None,
        max_requests=policy.max_queue_size,
    )
