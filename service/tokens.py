"""Bearer tokens from a file, compared in constant time, and read again while the server runs."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from service import log
from service.errors import InvalidSetting, Unauthenticated

# More would make every call slower: each token is compared, whichever one matches.
_MOST = 1000
# What can travel in a header as one word.
_TOKEN = re.compile(r"[!-~]+")
_HEADER = "authorization"
_SCHEME = "bearer "


class Tokens:
    """The tokens that this server knows; only their digests are kept."""

    def __init__(self, path: Path, data: bytes) -> None:
        """Take what the file held; ``Tokens.read`` is the way in."""
        self._path = path
        self._digests = _digests(data)
        self._seen: bytes | None = data
        self._settled: bytes | None = data

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """The tokens of a file: one a line, blank lines and lines starting with # skipped.

        Raises:
            InvalidSetting: it cannot be read, holds no token, or a line is none.
        """
        try:
            return cls(path, path.read_bytes())
        except OSError as error:
            raise InvalidSetting(f"--tokens {path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise InvalidSetting(f"--tokens {path} {error}") from None

    def check(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Let a call with one of the tokens pass.

        Raises:
            Unauthenticated: no ``authorization: Bearer TOKEN``, or a token that is not known.
        """
        given = [value for key, value in metadata if key == _HEADER]
        if len(given) != 1 or not isinstance(given[0], str):
            raise Unauthenticated("send one token with this call, as `authorization: Bearer TOKEN`")
        if given[0][: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated("send the token as `authorization: Bearer TOKEN`")
        digest = _digest(given[0][len(_SCHEME) :].strip(" "))
        known = False
        for one in self._digests:
            # No early exit: the time must not tell which token it is.
            known |= hmac.compare_digest(one, digest)
        if not known:
            raise Unauthenticated("this server does not know that token; ask its owner for one")

    def refresh(self) -> None:
        """Read the file again, and take what changed once two reads in a row agree.

        What it holds is compared, since times and inodes miss a change within one tick; two reads,
        since a file that is being written shows half of itself. One that cannot be used leaves the
        old tokens in force, and a warning in the log.
        """
        data = self._data()
        if data == self._settled or data != self._seen:
            self._seen = data
            return
        self._settled = data
        try:
            if data is None:
                raise ValueError("cannot be read")
            # One assignment: a call that is being checked sees the old tokens or the new ones.
            self._digests = _digests(data)
        except ValueError as error:
            log.warning("the old tokens are kept", file=self._path, reason=str(error))
        else:
            log.info("the tokens were read again", tokens=len(self._digests))

    def _data(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None


def _digests(data: bytes) -> tuple[bytes, ...]:
    """Digests of all tokens in a file; ValueError says what is wrong with it."""
    found = []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        if not _TOKEN.fullmatch(word):
            raise ValueError(f"has no token in line {number}: one word of printable ASCII")
        found.append(_digest(word))
    if not found:
        raise ValueError("holds no token; write one on a line of its own")
    if len(found) > _MOST:
        raise ValueError(f"holds {len(found)} tokens; {_MOST} are the most")
    return tuple(found)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
