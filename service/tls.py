"""TLS and mTLS from PEM files, which are read again when they change: no restart, no lost call."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from service import log
from service.errors import InvalidSetting
from service.settings import Settings


@dataclass(frozen=True)
class _Pems:
    """What the files held at one moment: a pair that belongs together, and the authorities."""

    key: bytes
    cert: bytes
    client_ca: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """What gRPC makes of it."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.cert)], self.client_ca)


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Credentials for ``--tls-cert``, ``--tls-key`` and ``--tls-client-ca``; None without them.

    gRPC asks for the files before each handshake. Connections that stand keep what they have; a
    pair that cannot be used leaves the old one in force, and a warning in the log.

    Raises:
        InvalidSetting: one option without the other, or files that cannot be used.
    """
    if not settings.tls_cert and not settings.tls_key:
        if settings.tls_client_ca:
            raise InvalidSetting("--tls-client-ca needs --tls-cert and --tls-key")
        return None
    if not settings.tls_cert or not settings.tls_key:
        raise InvalidSetting("--tls-cert and --tls-key go together; give both or none")
    files = _Files(settings)
    return grpc.dynamic_ssl_server_credentials(
        files.taken.configuration(),
        files.changed,  # type: ignore[arg-type]  # None is "no change", says gRPC
        bool(settings.tls_client_ca),
    )


class _Files:
    """The files of one server, and what was last taken from them."""

    def __init__(self, settings: Settings) -> None:
        """Read them for the first time."""
        self._settings = settings
        self.taken = _read(settings)
        self._warned = ""

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration if the files changed, and can be used; called by gRPC's threads."""
        try:
            found = _read(self._settings, self.taken)
        except InvalidSetting as error:
            if str(error) != self._warned:
                self._warned = str(error)
                log.warning("the old certificate is kept", reason=self._warned)
            return None
        self._warned = ""
        if found == self.taken:
            return None
        self.taken = found
        log.info("the certificate was read again")
        return found.configuration()


def _read(settings: Settings, known: _Pems | None = None) -> _Pems:
    """What the files hold, checked unless it is known; InvalidSetting says what is wrong."""
    found = _contents(settings)
    if found == known:
        return found
    _check(settings, found)
    # The check reads the files by itself: what it approved is what we hold only if it still stands.
    if _contents(settings) != found:
        raise InvalidSetting("the TLS files are being written; leave them alone for a moment")
    return found


def _contents(settings: Settings) -> _Pems:
    ca = settings.tls_client_ca
    return _Pems(
        _bytes("--tls-key", settings.tls_key),
        _bytes("--tls-cert", settings.tls_cert),
        _bytes("--tls-client-ca", ca) if ca else None,
    )


def _bytes(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidSetting(f"{option} {path} cannot be read: {error.strerror}") from None


def _check(settings: Settings, found: _Pems) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With a password, since it would ask the terminal for one.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (OSError, ValueError):
        raise InvalidSetting(
            f"--tls-cert {settings.tls_cert} and --tls-key {settings.tls_key} are no certificate "
            "and its key; give both in PEM, the key without a password"
        ) from None
    if found.client_ca is None:
        return
    try:
        context.load_verify_locations(cadata=found.client_ca.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise InvalidSetting(
            f"--tls-client-ca {settings.tls_client_ca} holds no certificate in PEM"
        ) from None
