"""The wires over gRPC, of A2A 1.0 and 0.3, by the SDK's own transports. Imported only for an agent that is spoken to so.

A call is made when the channel stands, so that it is known whether a byte can have left. The channel goes to the addresses that the
guard has judged; a name that comes to lead elsewhere is looked up again with the next card.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import grpc
from a2a.client.client import ClientCallContext
from a2a.client.errors import A2AClientError, A2AClientTimeoutError
from a2a.client.transports.base import ClientTransport
from a2a.client.transports.grpc import GrpcTransport
from a2a.compat.v0_3.grpc_transport import CompatGrpcTransport
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2A_ERROR_REASONS, A2AError
from google.protobuf.json_format import MessageToDict

from agentmesh import __version__
from agentmesh.adapters.outbound import Guard
from agentmesh.adapters.upstream_a2a_errors import Asked, NotOffered, refusal
from agentmesh.adapters.upstream_a2a_http import ANSWER, EVENTS
from agentmesh.adapters.upstream_a2a_pb import from_pb, sending, to_pb
from agentmesh.adapters.upstream_a2a_wire import Ask, Method, Stream
from agentmesh.core.agent import Json
from agentmesh.core.trace import current
from agentmesh.errors import Fail, InvalidInput, MeshError, NotSent, Retry, Unanswered

CONNECT_TIME: Final = 10.0
CONNECTING: Final = (
    "failed to connect",
    "connections to all backends failing",
    "dns resolution failed",
    "name resolution",
)
"""What gRPC says when a call never left."""


class Grpc:
    """One gRPC interface."""

    def __init__(
        self, guard: Guard, url: str, tenant: str, *, legacy: bool, secure: bool, authorization: str | None
    ) -> None:
        """`legacy`: it speaks 0.3. `secure`: with TLS, where the address does not say so itself."""
        parts = urlsplit(url if "://" in url else f"//{url}")
        self._secure = parts.scheme in {"https", "grpcs"} or (secure and parts.scheme not in {"http", "grpc"})
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._secure else 80)
        self._guard, self._tenant, self._legacy = guard, tenant, legacy
        self._authorization = authorization
        self._channel: grpc.aio.Channel | None = None
        self._transport: ClientTransport | None = None
        self._opening = anyio.Lock()

    async def ask(self, method: Method, params: Json, ask: Ask) -> Any:
        given = {"tenant": self._tenant, **params} if self._tenant and not self._legacy else params
        transport = await self._ready()
        calls: dict[Method, Callable[[], Awaitable[Any]]] = {
            "SendMessage": lambda: transport.send_message(sending(given), context=self._context(ask)),
            "GetTask": lambda: transport.get_task(to_pb(given, pb.GetTaskRequest()), context=self._context(ask)),
            "ListTasks": lambda: transport.list_tasks(to_pb(given, pb.ListTasksRequest()), context=self._context(ask)),
            "CancelTask": lambda: transport.cancel_task(
                to_pb(given, pb.CancelTaskRequest()), context=self._context(ask)
            ),
            "GetExtendedAgentCard": lambda: transport.get_extended_agent_card(
                to_pb(given, pb.GetExtendedAgentCardRequest()), context=self._context(ask)
            ),
        }
        try:
            with anyio.fail_after(ask.time):
                found = await calls[method]()
        except TimeoutError:
            raise Unanswered(f"the agent did not answer within {ask.time:g} s") from None
        except Exception as error:
            raise _plain(error, ask.asked) from None
        return MessageToDict(found) if method == "GetExtendedAgentCard" else from_pb(found)

    async def stream(self, method: Stream, params: Json, ask: Ask) -> AsyncGenerator[Json, None]:
        given = {"tenant": self._tenant, **params} if self._tenant and not self._legacy else params
        transport = await self._ready()
        context = self._context(ask, timed=False)
        events: Any
        if method == "SendStreamingMessage":
            events = transport.send_message_streaming(sending(given), context=context)
        else:
            events = transport.subscribe(to_pb(given, pb.SubscribeToTaskRequest()), context=context)
        count = 0
        async with aclosing(events):
            while True:
                limit = ask.idle if count else ask.time
                try:
                    with anyio.fail_after(limit):
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if count:
                        return
                    raise Unanswered(f"the agent did not answer within {limit:g} s") from None
                except Exception as error:
                    raise _plain(error, ask.asked) from None
                count += 1
                if count > EVENTS:
                    raise Fail(f"the agent's stream does not end: it has more than {EVENTS:,} events")
                yield from_pb(event)

    async def reach(self) -> None:
        await self._ready()

    async def aclose(self) -> None:
        channel, self._channel, self._transport = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def _ready(self) -> ClientTransport:
        """The transport, on a channel that stands. NotSent."""
        async with self._opening:
            if self._channel is None:
                self._channel = await self._open()
        channel = self._channel
        until = time.monotonic() + CONNECT_TIME
        state = channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            left = until - time.monotonic()
            if left <= 0 or state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}:
                await self.aclose()  # the next call looks the name up again, and does not wait for gRPC's own pauses
                raise NotSent(f"the agent cannot be reached: {self._host}:{self._port} does not accept connections")
            with anyio.move_on_after(left):
                await channel.wait_for_state_change(state)
            state = channel.get_state(try_to_connect=True)
        if self._transport is None:
            transport = CompatGrpcTransport if self._legacy else GrpcTransport
            self._transport = transport(
                channel, pb.AgentCard(capabilities=pb.AgentCapabilities(extended_agent_card=True))
            )
        return self._transport

    async def _open(self) -> grpc.aio.Channel:
        try:
            self._guard.check_parts("https", self._host, self._port)
            addresses = await self._guard.addresses(self._host, self._port)
        except InvalidInput as error:
            raise Fail(f"the agent cannot be spoken to at {self._host}:{self._port}: {error.message}") from None
        except OSError as error:
            raise NotSent(f"the agent cannot be reached: {error}") from None
        family = "ipv6" if ":" in addresses[0] else "ipv4"
        same = [a for a in addresses if (":" in a) == (family == "ipv6")]
        target = f"{family}:" + ",".join(
            f"[{a}]:{self._port}" if family == "ipv6" else f"{a}:{self._port}" for a in same
        )
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", ANSWER), ("grpc.max_send_message_length", ANSWER), ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0), ("grpc.default_authority", f"{self._host}:{self._port}"),
            ("grpc.primary_user_agent", f"agentmesh/{__version__}"), ("grpc.max_metadata_size", 64 * 1024),
            ("grpc.use_local_subchannel_pool", 1), ("grpc.service_config_disable_resolution", 1),
        ]  # fmt: skip
        if not self._secure:
            return grpc.aio.insecure_channel(target, options=options)
        options.append(("grpc.ssl_target_name_override", self._host))
        credentials = await anyio.to_thread.run_sync(_credentials)
        return grpc.aio.secure_channel(target, credentials, options=options)

    def _context(self, ask: Ask, *, timed: bool = True) -> ClientCallContext:
        # The SDK names the extensions' header in its own spelling, by which it finds it again for 0.3.
        names = {"a2a-extensions": "A2A-Extensions"}
        given = {names.get(name, name): value for name, value in {**current(), **ask.headers}.items()}
        if self._authorization is not None:
            given["authorization"] = self._authorization
        return ClientCallContext(service_parameters=given, timeout=ask.time if timed else None)


def _credentials() -> grpc.ChannelCredentials:
    """The authorities that this machine trusts, as for HTTP; gRPC has a list of its own, without an operator's."""
    file = ssl.get_default_verify_paths().cafile
    return grpc.ssl_channel_credentials(Path(file).read_bytes() if file else None)


def _plain(error: BaseException, asked: Asked) -> BaseException:
    """The SDK's errors, and gRPC's behind them, as ours; what is nobody's as it is."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, A2AError):
        return refusal(A2A_ERROR_REASONS.get(type(error), ""), error.message, asked)
    if isinstance(error, NotImplementedError):
        return NotOffered(f"the agent speaks A2A 0.3 over gRPC, which has no {asked}")
    if isinstance(error, A2AClientTimeoutError):
        return Unanswered("the agent did not answer in time")
    cause = error if isinstance(error, grpc.aio.AioRpcError) else error.__cause__
    if isinstance(cause, grpc.aio.AioRpcError):
        return _status(cause, asked)
    if isinstance(error, (A2AClientError, ValueError, TypeError, AttributeError, KeyError)):
        return Fail(f"the agent answered with what cannot be read: {' '.join(str(error).split())[:300]}")
    return error


def _status(error: grpc.aio.AioRpcError, asked: Asked) -> MeshError:
    code, words = error.code(), str(error.details() or "")[:300]
    said = f"the agent answered {code.name}: {words}"
    lower = words.lower()
    match code:
        case grpc.StatusCode.UNAVAILABLE if any(sign in lower for sign in CONNECTING):
            return NotSent(f"the agent cannot be reached: {words}")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED:
            return Unanswered(said)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in lower:
            return Fail(f"the agent's answer is larger than can be taken: {words}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Retry(said)
        case grpc.StatusCode.UNIMPLEMENTED:
            return NotOffered(said)
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return Fail(f"{said}; check its `token`")
        case grpc.StatusCode.NOT_FOUND if asked in {"get", "cancel", "subscribe", "follow_up"}:
            return refusal("TASK_NOT_FOUND", words, asked)
        case grpc.StatusCode.INVALID_ARGUMENT:
            return refusal("INVALID_PARAMS", words, asked)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return refusal("UNSUPPORTED_OPERATION", words, asked)
    return Fail(said)
