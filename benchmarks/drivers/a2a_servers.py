"""An agent to measure with the `a2a_*.py` scripts: the A2A SDK's own server, in an environment of its own.

DefaultRequestHandler behind the SDK's JSON-RPC and REST routes, on uvicorn with uvloop and httptools; prints the port as a line of
JSON when it listens. `--store`: DatabaseTaskStore there (a SQLite file by aiosqlite, or a postgresql:// address by asyncpg), tasks in
memory without it. A message whose text is a number makes a stream: so many artifacts, each of which says when it was written; any other
is done at once with one artifact.

    python a2a_servers.py [--store FILE|URL] [--synchronous FULL] [--wal] [--pause MS] [--push]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import socket
import time
from typing import Any

import uvicorn
from a2a.helpers import new_task_from_user_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryPushNotificationConfigStore, InMemoryTaskStore, TaskUpdater
from a2a.server.tasks.base_push_notification_sender import BasePushNotificationSender
from a2a.types import a2a_pb2 as pb
from starlette.applications import Starlette


class Agent(AgentExecutor):
    """Done at once, or a stream."""

    def __init__(self, pause: float) -> None:
        self._pause = pause

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        task = context.current_task or new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        said = context.get_user_input()
        if said.isdigit():
            await updater.start_work()
            for _ in range(int(said)):
                await asyncio.sleep(self._pause)
                await updater.add_artifact([new_text_part(str(time.time_ns()))], name="tick")
        else:
            await updater.add_artifact([new_text_part("done")], name="output")
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def store_of(address: str, synchronous: str, *, wal: bool) -> Any:
    """The SDK's store on a database, with aiosqlite's and asyncpg's settings as they come, but for what is asked."""
    if not address:
        return InMemoryTaskStore()
    from a2a.server.tasks import DatabaseTaskStore
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import create_async_engine

    if address.startswith("postgresql://"):
        return DatabaseTaskStore(create_async_engine(address.replace("postgresql://", "postgresql+asyncpg://", 1)))
    engine = create_async_engine(f"sqlite+aiosqlite:///{address}")

    @event.listens_for(engine.sync_engine, "connect")
    def _set(connection: Any, record: Any) -> None:
        if wal:
            connection.execute("PRAGMA journal_mode=WAL")
        if synchronous:
            connection.execute(f"PRAGMA synchronous={synchronous}")

    return DatabaseTaskStore(engine)


def app(asked: argparse.Namespace, url: str) -> Starlette:
    bindings = (("JSONRPC", "/"), ("HTTP+JSON", ""))
    card = pb.AgentCard(
        name="bench", description="An agent to measure.", version="1",
        supported_interfaces=[
            pb.AgentInterface(url=url + path, protocol_binding=binding, protocol_version="1.0") for binding, path in bindings
        ],
        capabilities=pb.AgentCapabilities(streaming=True, push_notifications=asked.push),
        default_input_modes=["text/plain"], default_output_modes=["text/plain"],
        skills=[pb.AgentSkill(id="work", name="work", description="Does the work.", tags=["bench"])],
    )  # fmt: skip
    push: dict[str, Any] = {}
    if asked.push:
        import httpx

        configs = InMemoryPushNotificationConfigStore()
        push = {
            "push_config_store": configs,
            "push_sender": BasePushNotificationSender(httpx.AsyncClient(timeout=30), configs),
        }
    handler = DefaultRequestHandler(
        Agent(asked.pause / 1000), store_of(asked.store, asked.synchronous, wal=asked.wal), card, **push
    )
    return Starlette(
        routes=[
            *create_agent_card_routes(card), *create_jsonrpc_routes(handler, rpc_url="/"),
            *create_rest_routes(handler),
        ]
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="")
    parser.add_argument("--synchronous", default="", help="a PRAGMA for SQLite")
    parser.add_argument("--wal", action="store_true", help="SQLite in WAL mode")
    parser.add_argument("--pause", type=float, default=20.0, help="milliseconds between two artifacts of a stream")
    parser.add_argument("--push", action="store_true", help="push notifications by the SDK's own sender")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    port = sock.getsockname()[1]
    config = uvicorn.Config(
        app(asked, f"http://127.0.0.1:{port}"), loop="uvloop", http="httptools", ws="none", lifespan="on",
        access_log=False, log_config=None, server_header=False,
    )  # fmt: skip
    print(json.dumps({"port": port}), flush=True)
    uvicorn.Server(config).run([sock])


if __name__ == "__main__":
    main()
