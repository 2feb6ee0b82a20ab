// Sends one message to a skill of a served mesh with the official JavaScript client, three times over, and prints what it
// saw as one line of JSON: streamed, then asked for again by GetTask, then sent blocking.
//
//   node client.mjs URL JSONRPC|HTTP+JSON SKILL TEXT|@FILE
//
// Example: node client.mjs http://127.0.0.1:8080 JSONRPC triage @build.log

import { readFileSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { GetTaskRequest, SendMessageRequest, Task, taskStateToJSON } from '@a2a-js/sdk';
import { ClientFactory, ClientFactoryOptions } from '@a2a-js/sdk/client';

const [url, binding, skill, text] = process.argv.slice(2);
if (!['JSONRPC', 'HTTP+JSON'].includes(binding) || text === undefined) {
    console.error('usage: node client.mjs URL JSONRPC|HTTP+JSON SKILL TEXT|@FILE');
    process.exit(2);
}
const said = text.startsWith('@') ? readFileSync(text.slice(1), 'utf8') : text;
const request = (toSkill = skill) =>
    SendMessageRequest.fromJSON({
        message: { messageId: randomUUID(), role: 'ROLE_USER', parts: [{ text: said }], metadata: { skill: toSkill } },
    });
const output = (task) => {
    const wire = Task.toJSON(task);
    return wire.artifacts?.[0]?.parts?.find((part) => part.data !== undefined)?.data ?? null;
};

const factory = new ClientFactory(
    ClientFactoryOptions.createFrom(ClientFactoryOptions.default, { preferredTransports: [binding] }),
);
const client = await factory.createFromUrl(url);

const kinds = [];
const lines = [];
let id = null;
let state = null;
for await (const event of client.sendMessageStream(request())) {
    const { $case: kind, value } = event.payload;
    kinds.push(kind);
    if (kind === 'task') id = value.id;
    if (kind === 'statusUpdate') {
        state = taskStateToJSON(value.status.state);
        lines.push(value.status.message?.parts?.[0]?.content?.value ?? '');
    }
}
const again = await client.getTask(GetTaskRequest.fromJSON({ id }));
const blocking = await client.sendMessage(request());
const sent = blocking.payload?.value ?? blocking;
let error = null;
try {
    await client.sendMessage(request('no-such-skill'));
} catch (refused) {
    error = { name: refused.constructor.name, message: refused.message };
}
console.log(
    JSON.stringify({
        kinds,
        lines,
        state,
        again: { state: taskStateToJSON(again.status.state), output: output(again) },
        blocking: { state: taskStateToJSON(sent.status.state), output: output(sent) },
        error,
    }),
);
