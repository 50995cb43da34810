"""One variant is pinned for all models, or one for each that is named; the rest choose."""

from __future__ import annotations

import pytest

from service import arguments
from service.errors import InvalidSetting
from service.pins import AUTO, pinned, pins


@pytest.mark.parametrize(
    ("text", "model", "variant"),
    [
        ("auto", "mine", AUTO),
        ("fp32", "mine", "fp32"),
        ("mine=pruned-int8", "mine", "pruned-int8"),
        ("mine=pruned-int8", "other", AUTO),
        ("mine=pruned-int8, other = fp32", "other", "fp32"),
        ("mine=auto", "mine", AUTO),
    ],
)
def test_a_model_that_is_not_named_is_not_pinned(text: str, model: str, variant: str) -> None:
    assert pinned(text, model) == variant


@pytest.mark.parametrize(
    "text", ["mine=", "=fp32", "mine=a,fp32", "a,b", "mine=a=b", "mine=a,mine=b", "mine=a,"]
)
def test_what_is_neither_is_refused_by_what_was_said(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"FARTHING_VARIANT is '.+'; it takes auto"):
        pins(text, "FARTHING_VARIANT")


def test_the_flag_is_checked_when_it_is_read() -> None:
    with pytest.raises(InvalidSetting, match="--variant is 'a,b'"):
        arguments.read(["models", "--variant", "a,b"], {})
