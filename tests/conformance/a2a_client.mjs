// The official JavaScript A2A client against a served mesh, over one binding: what a client does in a day, one line each.
//
//   node a2a_client.mjs URL JSONRPC|HTTP+JSON|GRPC
//
// The last line is 'N passed, M failed'. The agent acts on the prefix of the messageId, as for the probe.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import {
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTasksRequest,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
    TaskPushNotificationConfig,
} from '@a2a-js/sdk';
import { ClientFactory, ClientFactoryOptions } from '@a2a-js/sdk/client';
import { GrpcTransportFactory } from '@a2a-js/sdk/client/grpc';

const [url, binding] = process.argv.slice(2);
if (!['JSONRPC', 'HTTP+JSON', 'GRPC'].includes(binding)) {
    console.error('usage: node a2a_client.mjs URL JSONRPC|HTTP+JSON|GRPC');
    process.exit(2);
}
const factory = new ClientFactory(
    ClientFactoryOptions.createFrom(ClientFactoryOptions.default, {
        transports: [new GrpcTransportFactory()],
        preferredTransports: [binding],
    }),
);
const client = await factory.createFromUrl(url);
assert.equal(client.transport.protocolName, binding, 'the card does not offer this binding');

const PATIENCE = 30_000;
const ENDED = ['TASK_STATE_COMPLETED', 'TASK_STATE_CANCELED', 'TASK_STATE_FAILED', 'TASK_STATE_REJECTED'];
const message = (kind, more = {}, configuration = {}) =>
    SendMessageRequest.fromJSON({
        message: { messageId: `probe-${kind}-${randomUUID()}`, role: 'ROLE_USER', parts: [{ text: 'hello' }], ...more },
        configuration,
    });
const json = (task) => Task.toJSON(task);
const state = (task) => json(task).status.state;
const events = async (stream) => {
    const seen = [];
    for await (const event of stream) seen.push(StreamResponse.toJSON(event));
    return seen;
};
const kinds = (seen) => seen.map((event) => Object.keys(event)[0]);
const task = async (kind, more, configuration) => {
    const answer = await client.sendMessage(message(kind, more, configuration));
    assert.ok(answer.status, `not a task: ${JSON.stringify(answer)}`);
    return answer;
};
const get = (id, more = {}) => client.getTask(GetTaskRequest.fromJSON({ id, ...more }));
const until = async (id, states) => {
    for (const end = Date.now() + PATIENCE; Date.now() < end; await new Promise((go) => setTimeout(go, 100))) {
        const now = await get(id);
        if (states.includes(state(now))) return now;
    }
    throw new Error(`task ${id} did not get there`);
};
// The client names errors in its own way over each binding; the reason is in the name or in the message's details.
const refuses = async (reason, call) => {
    let error = null;
    try {
        await call();
    } catch (refused) {
        error = refused;
    }
    assert.ok(error, `no ${reason}`);
    const squash = (text) => text.replaceAll('_', '').toLowerCase();
    const told = [error.constructor.name, error.name, error.reason, error.message, JSON.stringify(error.data ?? error.details ?? null)];
    assert.ok(squash(told.join(' ')).includes(squash(reason)), `not ${reason}: ${told.join(' | ')}`);
    assert.ok(!/Traceback|Exception\(/.test(error.message), error.message);
};

const hooks = [];
const webhook = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => (body += chunk));
    request.on('end', () => {
        hooks.push({ headers: request.headers, body: JSON.parse(body) });
        response.writeHead(204).end();
    });
});
await new Promise((up) => webhook.listen(0, '127.0.0.1', up));
const hook = `http://127.0.0.1:${webhook.address().port}`;

const checks = {
    'a message is answered by its task, with its artifact': async () => {
        const done = await task('echo');
        assert.equal(state(done), 'TASK_STATE_COMPLETED');
        assert.deepEqual(JSON.parse(json(done).artifacts[0].parts[0].text), { said: 'hello' });
        assert.deepEqual(json(done).artifacts[0].parts[1].data, { said: 'hello' });
        assert.ok(done.contextId);
    },
    'a message may be answered by a message': async () => {
        const answer = await client.sendMessage(message('message'));
        assert.ok(!answer.status && answer.parts.length, JSON.stringify(answer));
    },
    'GetTask gives the same task': async () => {
        const done = await task('echo');
        assert.deepEqual(json(await get(done.id)), json(done));
    },
    'a stream is the task, its artifact and its end': async () => {
        const seen = await events(client.sendMessageStream(message('stream')));
        assert.equal(kinds(seen)[0], 'task');
        assert.ok(kinds(seen).includes('artifactUpdate'));
        assert.equal(seen.at(-1).statusUpdate.status.state, 'TASK_STATE_COMPLETED');
    },
    'a stream of one message': async () => {
        assert.deepEqual(kinds(await events(client.sendMessageStream(message('message')))), ['message']);
    },
    'a call that does not block, and CancelTask': async () => {
        const slow = await task('slow', {}, { returnImmediately: true });
        assert.ok(!ENDED.includes(state(slow)));
        assert.equal(state(await client.cancelTask(CancelTaskRequest.fromJSON({ id: slow.id }))), 'TASK_STATE_CANCELED');
        await refuses('TaskNotCancelable', () => client.cancelTask(CancelTaskRequest.fromJSON({ id: slow.id })));
    },
    'a question, and the message that answers it': async () => {
        const asked = await task('input');
        assert.equal(state(asked), 'TASK_STATE_INPUT_REQUIRED');
        const done = await task('input-resume', { taskId: asked.id });
        assert.deepEqual([done.id, done.contextId, state(done)], [asked.id, asked.contextId, 'TASK_STATE_COMPLETED']);
    },
    'historyLength': async () => {
        const asked = await task('input');
        await task('input-resume', { taskId: asked.id });
        const full = json(await get(asked.id)).history;
        assert.ok(full.length >= 2);
        assert.deepEqual(json(await get(asked.id, { historyLength: 1 })).history, full.slice(-1));
        assert.ok(!json(await get(asked.id, { historyLength: 0 })).history?.length);
    },
    'ListTasks by context, page by page': async () => {
        const first = await task('echo');
        for (let i = 0; i < 2; i++) await task('echo', { contextId: first.contextId });
        const seen = [];
        let pageToken = '';
        do {
            const page = await client.listTasks(ListTasksRequest.fromJSON({ contextId: first.contextId, pageSize: 2, pageToken }));
            assert.equal(page.totalSize, 3);
            seen.push(...page.tasks.map((one) => one.id));
            pageToken = page.nextPageToken;
        } while (pageToken && seen.length < 10);
        assert.equal(new Set(seen).size, 3);
        assert.equal(seen.at(-1), first.id);
    },
    'tasks that are not there': async () => {
        await refuses('TaskNotFound', () => get('no-such'));
        await refuses('TaskNotFound', () => client.cancelTask(CancelTaskRequest.fromJSON({ id: 'no-such' })));
        await refuses('TaskNotFound', () => client.sendMessage(message('echo', { taskId: 'no-such' })));
    },
    'a task that has ended takes no message': async () => {
        const done = await task('echo');
        await refuses('UnsupportedOperation', () => client.sendMessage(message('echo', { taskId: done.id })));
    },
    'a part of a media type that nobody takes': async () => {
        const parts = [{ raw: 'AAAA', mediaType: 'application/x-no-such' }];
        await refuses('ContentTypeNotSupported', () => client.sendMessage(message('echo', { parts })));
    },
    'two subscribers see the same events': async () => {
        const slow = await task('slow', {}, { returnImmediately: true });
        const follow = () => events(client.resubscribeTask(SubscribeToTaskRequest.fromJSON({ id: slow.id })));
        const [one, other] = await Promise.all([follow(), follow()]);
        assert.equal(kinds(one)[0], 'task');
        const length = Math.min(one.length, other.length) - 1;
        assert.ok(length >= 3);
        assert.deepEqual(one.slice(-length), other.slice(-length));
        assert.equal(one.at(-1).statusUpdate.status.state, 'TASK_STATE_COMPLETED');
    },
    'a task outlives its stream': async () => {
        let id = null;
        for await (const event of client.sendMessageStream(message('slow'))) {
            id = event.payload.value.id;
            break;
        }
        await until(id, ['TASK_STATE_COMPLETED']);
    },
    'subscribing to what has ended, or never was': async () => {
        const done = await task('echo');
        const follow = (id) => events(client.resubscribeTask(SubscribeToTaskRequest.fromJSON({ id })));
        await refuses('UnsupportedOperation', () => follow(done.id));
        await refuses('TaskNotFound', () => follow('no-such'));
    },
    'push configurations': async () => {
        const asked = await task('input');
        const own = { taskId: asked.id, id: 'c1' };
        const wire = TaskPushNotificationConfig.fromJSON({ ...own, url: `${hook}/c`, token: 't' });
        assert.equal((await client.createTaskPushNotificationConfig(wire)).url, `${hook}/c`);
        const one = await client.getTaskPushNotificationConfig(GetTaskPushNotificationConfigRequest.fromJSON(own));
        assert.equal(one.url, `${hook}/c`);
        const listed = await client.listTaskPushNotificationConfig(
            ListTaskPushNotificationConfigsRequest.fromJSON({ taskId: asked.id }),
        );
        assert.deepEqual(listed.configs.map((config) => config.id), ['c1']);
        const away = DeleteTaskPushNotificationConfigRequest.fromJSON(own);
        await client.deleteTaskPushNotificationConfig(away);
        await client.deleteTaskPushNotificationConfig(away);
        await refuses('TaskNotFound', () =>
            client.getTaskPushNotificationConfig(GetTaskPushNotificationConfigRequest.fromJSON(own)),
        );
    },
    'a webhook is told to the end': async () => {
        hooks.length = 0;
        const authentication = { scheme: 'Bearer', credentials: 'cred-1' };
        const config = { url: `${hook}/hook`, token: 'tok-1', authentication };
        await task('stream', {}, { returnImmediately: true, taskPushNotificationConfig: config });
        const last = () => hooks.find(({ body }) => ENDED.includes(body.statusUpdate?.status.state));
        for (const end = Date.now() + PATIENCE; !last() && Date.now() < end; ) {
            await new Promise((go) => setTimeout(go, 50));
        }
        assert.ok(last(), `nothing of the end: ${JSON.stringify(hooks)}`);
        assert.ok(hooks.every(({ headers }) => headers.authorization === 'Bearer cred-1'));
    },
};

let passed = 0;
let failed = 0;
for (const [name, check] of Object.entries(checks)) {
    try {
        let late;
        const patience = new Promise((_, fail) => {
            late = setTimeout(() => fail(new Error(`not done in ${PATIENCE} ms`)), PATIENCE);
        });
        await Promise.race([check(), patience]).finally(() => clearTimeout(late));
        passed += 1;
        console.log(`PASS [js ${binding}] ${name}`);
    } catch (error) {
        failed += 1;
        console.log(`FAIL [js ${binding}] ${name} | ${error.stack?.split('\n').slice(0, 4).join(' ') ?? error}`);
    }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
