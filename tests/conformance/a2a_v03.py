"""Version 0.3 of A2A at the same addresses, as the transports that the A2A SDK keeps for it see it: `make conformance-a2a`.

    python -m tests.conformance.a2a_v03 --binding JSONRPC --url http://127.0.0.1:8080/a2a
    python -m tests.conformance.a2a_v03 --binding GRPC --url 127.0.0.1:8081

The transports take the SDK's messages of 1.0 and speak 0.3: what a client of that version can do is done here, once in each binding.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import anyio
import grpc
import httpx
from a2a.client.client import ClientCallContext
from a2a.client.errors import A2AClientError
from a2a.client.transports.base import ClientTransport
from a2a.compat.v0_3.grpc_transport import CompatGrpcTransport
from a2a.compat.v0_3.jsonrpc_transport import CompatJsonRpcTransport
from a2a.compat.v0_3.rest_transport import CompatRestTransport
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import (
    A2AError,
    InvalidParamsError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from google.protobuf.json_format import ParseDict

SECONDS: Final = 30
ENDED: Final = {pb.TASK_STATE_COMPLETED, pb.TASK_STATE_FAILED, pb.TASK_STATE_CANCELED, pb.TASK_STATE_REJECTED}
BINDINGS: Final = ("JSONRPC", "HTTP+JSON", "GRPC")


@asynccontextmanager
async def transport(binding: str, url: str) -> AsyncIterator[ClientTransport]:
    if binding == "GRPC":
        async with grpc.aio.insecure_channel(url) as channel:
            yield CompatGrpcTransport(channel, None)
        return
    card = pb.AgentCard(
        capabilities=pb.AgentCapabilities(streaming=True, push_notifications=True, extended_agent_card=True)
    )
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        kind = CompatJsonRpcTransport if binding == "JSONRPC" else CompatRestTransport
        yield kind(client, card, url)


def message(kind: str, text: str = "hello", **more: Any) -> pb.SendMessageRequest:
    configuration = more.pop("configuration", {})
    wire = {"messageId": f"probe-{kind}-{uuid.uuid4()}", "role": "ROLE_USER", "parts": [{"text": text}], **more}
    # Over gRPC a configuration that says nothing of it does not block: 0.3 has no other way to say so there.
    return ParseDict({"message": wire, "configuration": configuration}, pb.SendMessageRequest())


class Checks:
    """What a client of version 0.3 does."""

    def __init__(self, client: ClientTransport, binding: str, webhook: Webhook) -> None:
        self.client = client
        self.binding = binding
        self.webhook = webhook

    async def task(self, kind: str = "echo", **more: Any) -> pb.Task:
        answer = await self.client.send_message(message(kind, **more))
        assert answer.HasField("task"), answer
        return answer.task

    async def until(self, ident: str, *states: int) -> pb.Task:
        while True:
            task = await self.client.get_task(pb.GetTaskRequest(id=ident))
            if task.status.state in states:
                return task
            await anyio.sleep(0.1)

    async def refuses(self, kind: type[A2AError], call: Awaitable[Any]) -> None:
        refusal: Exception | None = None
        try:
            await call
        except (A2AError, A2AClientError) as error:
            refusal = error
        assert isinstance(refusal, kind), repr(refusal)
        assert "Traceback" not in str(refusal), refusal

    async def sent_and_blocking(self) -> None:
        task = await self.task()
        assert task.status.state == pb.TASK_STATE_COMPLETED, task
        assert json.loads(task.artifacts[0].parts[0].text) == {"said": "hello"}, task
        assert task.context_id, task

    async def answered_by_a_message(self) -> None:
        answer = await self.client.send_message(message("message"))
        assert answer.HasField("message"), answer
        assert answer.message.role == pb.ROLE_AGENT, answer
        assert answer.message.parts, answer

    async def the_task_again(self) -> None:
        task = await self.task()
        again = await self.client.get_task(pb.GetTaskRequest(id=task.id))
        assert again == task, f"{again} and {task}"

    async def history_length(self) -> None:
        task = await self.task("input")
        await self.task("input-resume", taskId=task.id)
        full = (await self.client.get_task(pb.GetTaskRequest(id=task.id))).history
        one = (await self.client.get_task(pb.GetTaskRequest(id=task.id, history_length=1))).history
        assert len(full) >= 2, full
        assert list(one) == list(full)[-1:], one

    async def not_blocking_and_canceled(self) -> None:
        task = await self.task("slow", configuration={"returnImmediately": True})
        assert task.status.state not in ENDED, task
        gone = await self.client.cancel_task(pb.CancelTaskRequest(id=task.id))
        assert gone.status.state == pb.TASK_STATE_CANCELED, gone
        await self.refuses(TaskNotCancelableError, self.client.cancel_task(pb.CancelTaskRequest(id=task.id)))

    async def asked_and_answered(self) -> None:
        task = await self.task("input")
        assert task.status.state == pb.TASK_STATE_INPUT_REQUIRED, task
        done = await self.task("input-resume", taskId=task.id)
        assert (done.id, done.context_id) == (task.id, task.context_id), done
        assert done.status.state == pb.TASK_STATE_COMPLETED, done

    async def no_such_task(self) -> None:
        await self.refuses(TaskNotFoundError, self.client.get_task(pb.GetTaskRequest(id="no-such")))
        await self.refuses(TaskNotFoundError, self.client.cancel_task(pb.CancelTaskRequest(id="no-such")))
        await self.refuses(TaskNotFoundError, self.client.send_message(message("echo", taskId="no-such")))

    async def ended_tasks_take_nothing(self) -> None:
        task = await self.task()
        await self.refuses(TaskNotCancelableError, self.client.cancel_task(pb.CancelTaskRequest(id=task.id)))
        await self.refuses(UnsupportedOperationError, self.client.send_message(message("echo", taskId=task.id)))

    async def other_contexts_are_refused(self) -> None:
        task = await self.task("input")
        await self.refuses(
            InvalidParamsError,
            self.client.send_message(message("input-resume", taskId=task.id, contextId="other")),
        )

    async def one_context(self) -> None:
        first = await self.task()
        second = await self.task(contextId=first.context_id)
        assert second.context_id == first.context_id, second

    async def streamed(self) -> None:
        async with aclosing(self.client.send_message_streaming(message("stream"))) as stream:
            events = [event async for event in stream]
        kinds = [event.WhichOneof("payload") for event in events]
        assert kinds[0] == "task", kinds
        assert "artifact_update" in kinds, kinds
        assert events[-1].status_update.status.state == pb.TASK_STATE_COMPLETED, kinds

    async def streamed_message(self) -> None:
        async with aclosing(self.client.send_message_streaming(message("message"))) as stream:
            kinds = [event.WhichOneof("payload") async for event in stream]
        assert kinds == ["message"], kinds

    async def subscribed(self) -> None:
        task = await self.task("slow", configuration={"returnImmediately": True})
        seen: list[list[pb.StreamResponse]] = [[], []]

        async def follow(into: list[pb.StreamResponse]) -> None:
            async with aclosing(self.client.subscribe(pb.SubscribeToTaskRequest(id=task.id))) as stream:
                into += [event async for event in stream]

        async with anyio.create_task_group() as group:
            for into in seen:
                group.start_soon(follow, into)
        tails = [[event for event in one if event.HasField("status_update")] for one in seen]
        shorter = min(len(tail) for tail in tails)
        assert shorter >= 3, tails
        assert tails[0][-shorter:] == tails[1][-shorter:], tails
        assert tails[0][-1].status_update.status.state == pb.TASK_STATE_COMPLETED, tails[0][-1]

    async def streams_may_be_left(self) -> None:
        async with aclosing(self.client.send_message_streaming(message("slow"))) as stream:
            first = await anext(aiter(stream))
        await self.until(first.task.id, pb.TASK_STATE_COMPLETED)

    async def subscribed_to_nothing(self) -> None:
        async def follow(ident: str) -> None:
            async with aclosing(self.client.subscribe(pb.SubscribeToTaskRequest(id=ident))) as stream:
                async for _ in stream:
                    pass

        await self.refuses(TaskNotFoundError, follow("no-such"))
        await self.refuses(UnsupportedOperationError, follow((await self.task()).id))

    async def push_configurations(self) -> None:
        task = await self.task("input")
        made = await self.client.create_task_push_notification_config(
            pb.TaskPushNotificationConfig(task_id=task.id, id="c1", url=self.webhook.url + "/c", token="t")
        )
        assert (made.id, made.url, made.task_id) == ("c1", self.webhook.url + "/c", task.id), made
        got = await self.client.get_task_push_notification_config(
            pb.GetTaskPushNotificationConfigRequest(task_id=task.id, id="c1")
        )
        assert got.url == made.url, got
        if self.binding != "HTTP+JSON":  # 0.3's HTTP+JSON has no list of them, and the transport says so
            listed = await self.client.list_task_push_notification_configs(
                pb.ListTaskPushNotificationConfigsRequest(task_id=task.id)
            )
            assert [one.id for one in listed.configs] == ["c1"], listed
            delete = pb.DeleteTaskPushNotificationConfigRequest(task_id=task.id, id="c1")
            await self.client.delete_task_push_notification_config(delete)
            await self.refuses(
                TaskNotFoundError,
                self.client.get_task_push_notification_config(
                    pb.GetTaskPushNotificationConfigRequest(task_id=task.id, id="c1")
                ),
            )

    async def push_notifications(self) -> None:
        hook = {"url": self.webhook.url + "/hook", "token": "tok-1"}
        await self.task("stream", configuration={"returnImmediately": True, "taskPushNotificationConfig": hook})
        while True:
            headers, body = await self.webhook.next()
            assert headers.get("x-a2a-notification-token") == "tok-1", headers
            assert body.get("kind") == "task", body  # version 0.3 tells the task as it stands
            if body["status"]["state"] == "completed":
                return

    async def missing_fields(self) -> None:
        broken = message("echo")
        broken.message.message_id = ""
        await self.refuses(InvalidParamsError, self.client.send_message(broken))

    async def legacy_extensions(self) -> None:
        context = ClientCallContext(service_parameters={"X-A2A-Extensions": "urn:agentmesh:a2a:skill:1"})
        answer = await self.client.send_message(message("echo"), context=context)
        assert answer.task.status.state == pb.TASK_STATE_COMPLETED, answer


class Webhook:
    """A webhook on loopback."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener
        self.url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"  # noqa: S610
        self._give, self._take = anyio.create_memory_object_stream[tuple[dict[str, str], Any]](1000)

    async def serve(self) -> None:
        await self._listener.serve(self._one)

    async def next(self) -> tuple[dict[str, str], Any]:
        return await self._take.receive()

    async def _one(self, stream: Any) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:])
            }
            while len(body) < int(headers.get("content-length", 0)):
                body += await stream.receive()
            if headers:
                self._give.send_nowait((headers, json.loads(body)))
            await stream.send(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")


CHECKS: Final[tuple[Callable[[Checks], Awaitable[None]], ...]] = tuple(
    check
    for name, check in vars(Checks).items()
    if name not in {"task", "until", "refuses"} and not name.startswith("_")
)


async def run(binding: str, url: str) -> int:
    passed = failed = 0
    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)).listeners[0]
    webhook = Webhook(listener)
    async with anyio.create_task_group() as group, transport(binding, url) as client:
        group.start_soon(webhook.serve)
        checks = Checks(client, binding, webhook)
        for check in CHECKS:
            name = check.__name__.replace("_", " ")
            try:
                with anyio.fail_after(SECONDS):
                    await check(checks)
            except Exception:
                failed += 1
                print(f"FAIL [0.3 {binding}] {name}\n{traceback.format_exc(limit=-3)}", flush=True)
            else:
                passed += 1
                print(f"PASS [0.3 {binding}] {name}", flush=True)
        group.cancel_scope.cancel()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--binding", choices=BINDINGS, required=True)
    arguments.add_argument("--url", required=True)
    given = arguments.parse_args()
    return anyio.run(run, given.binding, given.url)


if __name__ == "__main__":
    sys.exit(main())
