"""Real handshakes: who is let in, and what a renewal does to those inside and those who come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from service import tls
from service.errors import InvalidSetting
from service.settings import Settings

ECHO = "/test.Service/Echo"


class Files:
    """A server's certificate, key and client authority on disk."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key, self.client_ca = (folder / name for name in ("crt", "key", "ca"))
        self.settings = Settings(tls_cert=str(self.cert), tls_key=str(self.key))
        self.mutual = Settings(
            tls_cert=str(self.cert), tls_key=str(self.key), tls_client_ca=str(self.client_ca)
        )

    def issue(self, authority: trustme.CA) -> None:
        made = authority.issue_cert("localhost")
        self.cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        self.key.write_bytes(made.private_key_pem.bytes())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture(scope="module")
def successor() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    made = Files(tmp_path)
    made.issue(authority)
    made.client_ca.write_bytes(authority.cert_pem.bytes())
    return made


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    async def echo(request: bytes, call: Any) -> bytes:
        return request

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("test.Service", {"Echo": handler})]
    )
    made = tls.credentials(settings)
    assert made is not None
    port = server.add_secure_port("127.0.0.1:0", made)
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop(None)


def connect(
    target: str, trusted: trustme.CA, client: trustme.LeafCert | None = None
) -> grpc.aio.Channel:
    key = client.private_key_pem.bytes() if client else None
    chain = client.cert_chain_pems[0].bytes() if client else None
    return grpc.aio.secure_channel(
        target,
        grpc.ssl_channel_credentials(trusted.cert_pem.bytes(), key, chain),
        # Otherwise channels of one process to one server share a connection.
        [("grpc.use_local_subchannel_pool", 1)],
    )


async def echoes(channel: grpc.aio.Channel) -> bool:
    try:
        return bool(await channel.unary_unary(ECHO)(b"hello", timeout=20) == b"hello")
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        return False


async def lets_in(target: str, trusted: trustme.CA, client: trustme.LeafCert | None = None) -> bool:
    async with connect(target, trusted, client) as channel:
        return await echoes(channel)


async def test_without_tls_options_there_is_no_tls() -> None:
    assert tls.credentials(Settings()) is None


async def test_callers_who_trust_the_authority_are_served(
    files: Files, authority: trustme.CA, successor: trustme.CA
) -> None:
    async with serving(files.settings) as target:
        assert await lets_in(target, authority)
        assert not await lets_in(target, successor)


async def test_callers_in_clear_text_are_not_served(files: Files) -> None:
    async with (
        serving(files.settings) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        assert not await echoes(channel)


async def test_mtls_wants_a_certificate_of_the_authority(
    files: Files, authority: trustme.CA, successor: trustme.CA
) -> None:
    friend, stranger = (ca.issue_cert("client") for ca in (authority, successor))
    async with serving(files.mutual) as target:
        assert await lets_in(target, authority, friend)
        assert not await lets_in(target, authority, stranger)
        assert not await lets_in(target, authority)


async def test_a_renewal_is_served_to_newcomers_and_loses_nobody(
    files: Files, authority: trustme.CA, successor: trustme.CA
) -> None:
    async with serving(files.settings) as target, connect(target, authority) as old:
        assert await echoes(old)
        files.issue(successor)
        assert await lets_in(target, successor)
        assert not await lets_in(target, authority)
        assert await echoes(old)


async def test_a_renewed_client_authority_lets_its_clients_in(
    files: Files, authority: trustme.CA, successor: trustme.CA
) -> None:
    newcomer = successor.issue_cert("client")
    async with serving(files.mutual) as target:
        assert not await lets_in(target, authority, newcomer)
        files.client_ca.write_bytes(successor.cert_pem.bytes())
        assert await lets_in(target, authority, newcomer)
        assert not await lets_in(target, authority, authority.issue_cert("client"))


@pytest.mark.parametrize("broken", ["half the pair", "no pem", "gone"])
async def test_a_broken_renewal_keeps_the_old_and_warns_once(
    files: Files, authority: trustme.CA, successor: trustme.CA, broken: str,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("service.log.LOGGER.propagate", True)
    async with serving(files.settings) as target:
        if broken == "half the pair":
            files.cert.write_bytes(successor.issue_cert("localhost").cert_chain_pems[0].bytes())
        elif broken == "no pem":
            files.key.write_bytes(b"\xff\x00")
        else:
            files.cert.unlink()
        assert await lets_in(target, authority)
        assert await lets_in(target, authority)
        warned = [record for record in caplog.records if record.levelname == "WARNING"]
        assert [record.getMessage() for record in warned] == ["the old certificate is kept"]
        files.issue(successor)
        assert await lets_in(target, successor)


def refusal(**options: str) -> str:
    with pytest.raises(InvalidSetting) as refused:
        tls.credentials(Settings(**options))
    return str(refused.value)


def test_contradicting_options_are_refused(files: Files) -> None:
    cert, key, ca = map(str, (files.cert, files.key, files.client_ca))
    assert "go together" in refusal(tls_cert=cert)
    assert "go together" in refusal(tls_key=key)
    assert "--tls-client-ca needs" in refusal(tls_client_ca=ca)


def test_files_that_cannot_be_used_are_refused(
    files: Files, authority: trustme.CA, tmp_path: Path
) -> None:
    cert, key, ca = map(str, (files.cert, files.key, files.client_ca))
    assert "--tls-cert /nowhere cannot be read" in refusal(tls_cert="/nowhere", tls_key=key)
    assert "--tls-key" in refusal(tls_cert=cert, tls_key=str(tmp_path))
    assert "no certificate and its key" in refusal(tls_cert=key, tls_key=cert)
    files.client_ca.write_bytes("not PEM: \u00e4".encode())
    assert "holds no certificate" in refusal(tls_cert=cert, tls_key=key, tls_client_ca=ca)
    files.client_ca.write_bytes(b"")
    assert "holds no certificate" in refusal(tls_cert=cert, tls_key=key, tls_client_ca=ca)
    Files(tmp_path).issue(authority)
    (tmp_path / "other").write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
    assert "no certificate and its key" in refusal(tls_cert=cert, tls_key=str(tmp_path / "other"))


def test_a_key_with_a_password_is_refused_and_not_asked_for(files: Files) -> None:
    key = load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    assert "without a password" in refusal(tls_cert=str(files.cert), tls_key=str(files.key))
