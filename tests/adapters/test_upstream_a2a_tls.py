"""Agents behind TLS: known authorities only, asked for by name, over HTTP and gRPC."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from a2a.server.request_handlers.default_request_handler_v2 import DefaultRequestHandlerV2
from a2a.server.request_handlers.grpc_handler import GrpcHandler
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import a2a_pb2 as pb
from a2a.types import a2a_pb2_grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.json_format import ParseDict

from agentmesh.errors import NotSent
from tests.adapters.a2a_agents import CALL, Echo, Liar, card, interface, message, peer_at
from tests.http.serving import served

pytestmark = pytest.mark.anyio
DONE = {"task": {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_COMPLETED"}}}


def authority(folder: Path, *names: str) -> tuple[Path, Path]:
    """A certificate that signs itself, for these names, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    at = datetime.now(UTC)
    alternatives: list[x509.GeneralName] = [x509.DNSName(one) for one in names]
    alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.2")))
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(at - timedelta(days=1)).not_valid_after(at + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    certificate, secret = folder / "ca.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, secret


@asynccontextmanager
async def secure_agent(certificate: Path, key: Path, host: str) -> AsyncIterator[tuple[str, Liar]]:
    """One whose card names JSON-RPC there; its address."""
    made = Liar(capabilities={})
    made.answers["SendMessage"] = lambda _: DONE
    async with served(made.app, ssl_certfile=str(certificate), ssl_keyfile=str(key)) as plain:
        url = f"https://{host}:{plain.rpartition(':')[2]}"
        made.card = card(interface(f"{url}/rpc", "JSONRPC"), capabilities={})
        yield url, made


async def one(source: Any) -> Any:
    with anyio.fail_after(10):
        async with aclosing(source.send(message("say"), CALL)) as events:
            return await anext(events)


async def test_an_agent_is_spoken_to_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its certificate is one of an authority that this machine knows, and for that name."""
    certificate, key = authority(tmp_path, "localhost")
    async with secure_agent(certificate, key, "localhost") as (url, _), peer_at(url) as unknown:
        assert unknown.health().state == "down"
        with pytest.raises(NotSent):
            await one(unknown)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with secure_agent(certificate, key, "localhost") as (url, made), peer_at(url, token="s3cret") as source:
        assert "task" in await one(source)
        assert made.headers[-1]["authorization"] == "Bearer s3cret"
    async with secure_agent(certificate, key, "127.0.0.1") as (url, _), peer_at(url) as other:
        assert other.health().state == "down"


async def test_grpc_over_tls_trusts_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a scheme is spoken to with TLS when the card came over it."""
    certificate, key = authority(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = grpc.aio.server()
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    said = card(interface(f"localhost:{port}", "GRPC"))
    handler = DefaultRequestHandlerV2(Echo(), InMemoryTaskStore(), ParseDict(said, pb.AgentCard()))
    a2a_pb2_grpc.add_A2AServiceServicer_to_server(GrpcHandler(handler), server)  # type: ignore[no-untyped-call]
    await server.start()
    try:
        async with secure_agent(certificate, key, "localhost") as (url, made):
            made.card = said
            async with peer_at(url, token="s3cret") as source:
                assert "message" in await one(source)
    finally:
        await server.stop(0)
