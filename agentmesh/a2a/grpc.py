"""A2A over gRPC (A2A 1.0.1 section 10), on a port of its own: version 1.0 and version 0.3, each a service by its own name.

On one side gRPC's server, which runs on the event loop that everything runs on; on the other the operations that every binding ends
in. What the SDK's servicers leave to Python or to gRPC is settled here: bytes that are no message, versions, values that only this
binding can carry, errors as google.rpc.Status, and streams whose clients have left.

Importing it costs 30 ms and 9 MB, gRPC's: app.py does it in a thread, and not at all where there is no port for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final, TypeAlias

import anyio
import anyio.to_thread
import grpc
import grpc.aio
from a2a.server.context import ServerCallContext

from agentmesh.a2a.errors import UnavailableError, to_a2a_error
from agentmesh.a2a.grpc_health import Health
from agentmesh.a2a.grpc_methods import Method, Service, services
from agentmesh.a2a.grpc_read import read
from agentmesh.a2a.grpc_status import abort
from agentmesh.a2a.operations import ACTIVATED, Operations
from agentmesh.a2a.request import (
    EXTENSIONS_HEADER,
    LEGACY_EXTENSIONS_HEADER,
    V03,
    VERSION_HEADER,
    VERSIONS,
    extensions_of,
)
from agentmesh.core.policy import Principal
from agentmesh.core.trace import trace_of, traced
from agentmesh.engine.identity import principal_for_open_server
from agentmesh.errors import ServeError
from agentmesh.settings import Limits

log = logging.getLogger(__name__)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Metadata = Mapping[str, str]
"""What a call says beside its request, by lower-case name; of a name that is there twice, both, with a comma between."""
Identify = Callable[[Metadata], Principal]
LARGE: Final = 64 * 1024
"""Requests over this are read in a thread."""
STREAMS: Final = 1000
"""Calls that one connection may have open."""
KEEPALIVE: Final = 60
"""Seconds without a word after which a connection is asked whether it is still there; when it is not, its calls end."""
LAST: Final = 5
"""Seconds that what a call leaves behind may take to end, when the server stops."""
STOPPING: Final = "the server is stopping; take the task up again with GetTask or SubscribeToTask in a moment"


class GrpcEdge:
    """The server of the binding. Lives as long as `run`; `leave` ends it gracefully before that."""

    def __init__(
        self, operations: Operations, limits: Limits, *,
        identify: Identify = lambda _: principal_for_open_server(), grace: float = 3.0,
        versions: Callable[[], Sequence[str]] = lambda: VERSIONS,
    ) -> None:  # fmt: skip
        """`identify`: who a call is by, from its metadata. `grace`: seconds that open calls get when the server stops.
        `versions`: those that are offered now; a method of another one answers that it is not.
        """
        self._limits = limits
        self._versions = versions
        self._identify = identify
        self._grace = grace
        self._services = services(operations)
        self._health = Health([service.name for service in self._services])
        self._left = anyio.Event()
        self._stopped = anyio.Event()
        self._idle = anyio.Event()
        self._streams: set[anyio.CancelScope] = set()
        self.calls = 0
        """Calls that are answered now."""

    @asynccontextmanager
    async def run(self, address: str) -> AsyncIterator[int]:
        """Serves on `HOST:PORT`, and yields the port. ServeError when it cannot be had."""
        server = grpc.aio.server(options=self._options())
        server.add_generic_rpc_handlers([*map(self._handlers, self._services), self._health.handlers()])
        try:
            port = server.add_insecure_port(address)
        except RuntimeError:
            raise ServeError(
                f"gRPC cannot listen on {address}; choose another port with --grpc-port, or none with --grpc-port 0"
            ) from None
        await server.start()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._stop, server)
            try:
                yield port
            finally:
                self.leave()
                with anyio.CancelScope(shield=True):
                    await self._stopped.wait()

    def leave(self) -> None:
        """Takes no further calls. Streams end, other calls get their moment. May be called twice."""
        self._left.set()
        self._health.leave()
        for scope in tuple(self._streams):
            scope.cancel()

    async def _stop(self, server: grpc.aio.Server) -> None:
        with anyio.CancelScope(shield=True):
            await self._left.wait()
            await server.stop(self._grace)
            if self.calls:  # cancelled, and not at their end yet: what they stand on closes after this
                with anyio.move_on_after(LAST):
                    await self._idle.wait()
            self._stopped.set()

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.so_reuseport", 0),  # else a second server on the port would silently be given half of the calls
            ("grpc.max_receive_message_length", self._limits.body),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", self._limits.headers),
            ("grpc.absolute_max_metadata_size", self._limits.headers),
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.keepalive_time_ms", KEEPALIVE * 1000),
        ]

    def _handlers(self, service: Service) -> grpc.GenericRpcHandler:
        """Bytes in and bytes out: what gRPC makes of bytes that are no message is an internal error in Python's words."""
        handlers = {
            name: grpc.unary_stream_rpc_method_handler(self._streaming(service, method))
            if method.stream
            else grpc.unary_unary_rpc_method_handler(self._unary(service, method))
            for name, method in service.methods.items()
        }
        return grpc.method_handlers_generic_handler(service.name, handlers)

    def _unary(self, service: Service, method: Method) -> Callable[[bytes, Context], Any]:
        assert method.answer is not None
        answers = method.answer

        async def unary(body: bytes, context: Context) -> bytes:
            with self._counted():
                try:
                    params, call = await self._read(service, method, body, context)
                    with traced(trace_of(call.state["headers"])):
                        answer: bytes = (await answers(params, call)).SerializeToString()
                except Exception as error:
                    await abort(context, to_a2a_error(error), legacy=service.version == V03)
                await _say_activated(call, context)
                return answer

        return unary

    def _streaming(self, service: Service, method: Method) -> Callable[[bytes, Context], Any]:
        assert method.stream is not None
        follows = method.stream

        async def stream(body: bytes, context: Context) -> None:
            # Events are written, not yielded: the collector ends a generator that gRPC drops, in a task that is not the call's.
            try:
                with self._counted(), anyio.CancelScope() as scope, self._open(scope):
                    params, call = await self._read(service, method, body, context)
                    with traced(trace_of(call.state["headers"])):
                        async with aclosing(follows(params, call)) as events:
                            async for event in events:
                                await _say_activated(call, context)
                                await context.write(event.SerializeToString())
                if scope.cancelled_caught:
                    raise UnavailableError(message=STOPPING)
            except Exception as error:
                await abort(context, to_a2a_error(error), legacy=service.version == V03)

        return stream

    async def _read(
        self, service: Service, method: Method, body: bytes, context: Context
    ) -> tuple[Any, ServerCallContext]:
        """The request, and what the operations want to know besides. A2AError when one of them is not right."""
        metadata = metadata_of(context)
        service.check_version(metadata.get(VERSION_HEADER), self._versions())
        parse = partial(read, method.request, body)
        params = await anyio.to_thread.run_sync(parse) if len(body) > LARGE else parse()
        lists = [metadata.get(EXTENSIONS_HEADER, "")]
        if service.version == V03:
            lists.append(metadata.get(LEGACY_EXTENSIONS_HEADER, ""))
        return params, ServerCallContext.model_construct(
            state={"headers": metadata, "principal": self._identify(metadata), "version": service.version},
            tenant="",
            requested_extensions=extensions_of(lists),
        )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            if not self.calls and self._left.is_set():
                self._idle.set()

    @contextmanager
    def _open(self, scope: anyio.CancelScope) -> Iterator[None]:
        """A stream, which ends when the server is left."""
        self._streams.add(scope)
        if self._left.is_set():
            scope.cancel()
        try:
            yield
        finally:
            self._streams.discard(scope)


def metadata_of(context: Context) -> dict[str, str]:
    """The text in a call's metadata; bytes (names that end in `-bin`) are nothing that A2A has."""
    found: dict[str, str] = {}
    for name, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


async def _say_activated(call: ServerCallContext, context: Context) -> None:
    """The extensions that were activated, once, before the answer (A2A 1.0.1 section 4.6)."""
    active = call.state.pop(ACTIVATED, None)
    if active:
        await context.send_initial_metadata(((EXTENSIONS_HEADER, ", ".join(active)),))
