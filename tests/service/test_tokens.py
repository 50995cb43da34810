"""One of the file's tokens opens the door; a file that changes is followed, a broken one is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import InvalidSetting, Unauthenticated
from service.tokens import Tokens

FILE = b"# the two of us\n\nfirst-token\n  second.token  \n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    result = tmp_path / "tokens"
    result.write_bytes(FILE)
    return result


def passes(tokens: Tokens, *values: str | bytes, key: str = "authorization") -> bool:
    try:
        tokens.check([("user-agent", "grpc"), *((key, value) for value in values)])
    except Unauthenticated as refused:
        assert "Bearer" in str(refused) or "does not know that token" in str(refused)
        return False
    return True


@pytest.mark.parametrize(
    "value", ["Bearer first-token", "bearer second.token", "BEARER  first-token "]
)
def test_each_token_of_the_file_passes(path: Path, value: str) -> None:
    assert passes(Tokens.read(path), value)


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        ("first-token",),
        ("Basic first-token",),
        ("Bearer first-toke",),
        ("Bearer first-token1",),
        ("Bearer FIRST-TOKEN",),
        ("Bearer # the two of us",),
        ("Bearer t\u00f6ken\ud800",),
        (b"Bearer first-token",),
        ("Bearer first-token", "Bearer first-token"),
        ("Bearer first-token", "Bearer wrong"),
    ],
)
def test_anything_else_is_refused(path: Path, values: tuple[str | bytes, ...]) -> None:
    assert not passes(Tokens.read(path), *values)


def test_a_token_under_another_key_is_refused(path: Path) -> None:
    assert not passes(Tokens.read(path), "Bearer first-token", key="x-authorization")


def test_a_refusal_does_not_repeat_the_token(path: Path) -> None:
    with pytest.raises(Unauthenticated) as refused:
        Tokens.read(path).check([("authorization", "Bearer guessed")])
    assert "guessed" not in str(refused.value)


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (b"", "holds no token"),
        (b"# only a remark\n\n", "holds no token"),
        (b"good\ntwo words\n", "line 2"),
        ("t\u00f6ken".encode(), "line 1"),
        (b"\xff\xfe\x00", "line 1"),
        (b"\n".join(b"t%d" % number for number in range(1001)), "1000 are the most"),
    ],
)
def test_a_file_without_usable_tokens_stops_the_start(path: Path, held: bytes, says: str) -> None:
    path.write_bytes(held)
    with pytest.raises(InvalidSetting, match=says) as refused:
        Tokens.read(path)
    assert "two words" not in str(refused.value), "what may be a secret is not printed"


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InvalidSetting, match="cannot be read"):
            Tokens.read(path)


def test_a_mark_at_the_start_of_the_file_is_no_part_of_a_token(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbffirst\r\nsecond\r\n")
    tokens = Tokens.read(path)
    assert passes(tokens, "Bearer first") and passes(tokens, "Bearer second")


def test_a_change_is_taken_and_old_tokens_are_forgotten(path: Path) -> None:
    tokens = Tokens.read(path)
    path.write_bytes(b"third\n")
    tokens.refresh()
    tokens.refresh()
    assert passes(tokens, "Bearer third") and not passes(tokens, "Bearer first-token")


def test_half_a_file_is_never_taken(path: Path) -> None:
    tokens = Tokens.read(path)
    for held in (b"thi", b"third\nfou", b"third\nfourth\n"):
        path.write_bytes(held)
        tokens.refresh()
        assert passes(tokens, "Bearer first-token")
        assert not passes(tokens, "Bearer thi") and not passes(tokens, "Bearer fou")
    tokens.refresh()
    assert passes(tokens, "Bearer fourth")


@pytest.mark.parametrize("held", [b"", b"two words\n", None])
def test_a_broken_file_keeps_the_old_tokens_and_warns_once(
    path: Path,
    held: bytes | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.log.LOGGER.propagate", True)
    tokens = Tokens.read(path)
    if held is None:
        path.unlink()
    else:
        path.write_bytes(held)
    for _ in range(5):
        tokens.refresh()
    assert passes(tokens, "Bearer first-token")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    path.write_bytes(b"mended\n")
    tokens.refresh()
    tokens.refresh()
    assert passes(tokens, "Bearer mended")
