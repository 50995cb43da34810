"""Made-up texts: rows of word ids, each about one of a few topics, with a second one mixed in.

A text is mostly words that every topic uses. A fifth of it is about its topic and a twelfth about
some other, so no single word decides; what decides is which topic has more. Nothing is ambiguous:
whoever counts right is always right.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LENGTH = 128
TOPICS = 8
PADDING = 0
_COMMON_WORDS = 400
_TOPIC_WORDS = 50
VOCABULARY = 1 + _COMMON_WORDS + TOPICS * _TOPIC_WORDS
_SHORTEST = 40

Array = np.ndarray[Any, Any]


def write(rows: int, seed: int) -> tuple[Array, Array]:
    """Write texts, no two of them the same.

    Args:
        rows: how many.
        seed: of their words and their topics.

    Returns:
        Word ids, int64 of shape [rows, LENGTH], padded at the end with ``PADDING``, and each text's
        topic, int64 of shape [rows].
    """
    random = np.random.default_rng(seed)
    topics = random.integers(0, TOPICS, rows)
    texts = np.full((rows, LENGTH), PADDING, dtype=np.int64)
    for text, topic in zip(texts, topics, strict=True):
        length = int(random.integers(_SHORTEST, LENGTH + 1))
        other = (topic + random.integers(1, TOPICS)) % TOPICS
        words = _frequent_first(random, _COMMON_WORDS, length) + 1
        words[: length // 5] = _about(topic, random, length // 5)
        words[-(length // 12) :] = _about(other, random, length // 12)
        text[:length] = random.permutation(words)
    if len(np.unique(texts, axis=0)) < rows:
        raise ValueError(f"seed {seed} writes one text twice within {rows} rows")
    return texts, topics


def _about(topic: int, random: np.random.Generator, count: int) -> Array:
    first = 1 + _COMMON_WORDS + topic * _TOPIC_WORDS
    return _frequent_first(random, _TOPIC_WORDS, count) + first


def _frequent_first(random: np.random.Generator, words: int, count: int) -> Array:
    """As in a language, low ids are said far more often than high ones."""
    drawn: Array = (words * random.random(count) ** 2).astype(np.int64)
    return drawn
