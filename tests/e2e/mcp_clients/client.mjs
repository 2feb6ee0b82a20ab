// Calls one tool of a served mesh with the official TypeScript client and prints what it saw as one line of JSON.
//
//   node client.mjs URL ERA TOOL [NAME=VALUE | NAME=@FILE]...     over streamable HTTP
//   node client.mjs stdio:COMMAND ERA TOOL …                      over stdio: COMMAND is split at spaces
//
// ERA is 2026 (probes server/discover, and must find 2026-07-28) or 2025 (initialize).
// Example: node client.mjs http://127.0.0.1:8080/mcp 2026 triage log=@build.log

import { readFileSync } from 'node:fs';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const [target, era, tool, ...pairs] = process.argv.slice(2);
if (!['2026', '2025'].includes(era) || tool === undefined) {
    console.error('usage: node client.mjs URL|stdio:COMMAND 2026|2025 TOOL [NAME=VALUE | NAME=@FILE]...');
    process.exit(2);
}
const args = Object.fromEntries(
    pairs.map((pair) => {
        const at = pair.indexOf('=');
        const value = pair.slice(at + 1);
        return [pair.slice(0, at), value.startsWith('@') ? readFileSync(value.slice(1), 'utf8') : value];
    }),
);

const client = new Client(
    { name: 'agentmesh-e2e', version: '1.0.0' },
    { versionNegotiation: { mode: era === '2026' ? { pin: '2026-07-28' } : 'legacy' } },
);
let transport;
if (target.startsWith('stdio:')) {
    const [command, ...words] = target.slice('stdio:'.length).split(' ');
    transport = new StdioClientTransport({ command, args: words, stderr: 'inherit' });
} else {
    transport = new StreamableHTTPClientTransport(new URL(target));
}

const progress = [];
try {
    await client.connect(transport);
    const { tools } = await client.listTools();
    let unknown = null;
    try {
        await client.callTool({ name: `no-such-${tool}`, arguments: {} });
    } catch (error) {
        unknown = error.code;
    }
    const result = await client.callTool(
        { name: tool, arguments: args },
        { onprogress: (notice) => progress.push(notice.message), timeout: 300_000, resetTimeoutOnProgress: true },
    );
    console.log(
        JSON.stringify({
            version: client.getNegotiatedProtocolVersion(),
            server: client.getServerVersion()?.name,
            tools: tools.map((one) => one.name),
            unknown,
            isError: result.isError ?? false,
            structured: result.structuredContent ?? null,
            text: result.content.map((block) => block.text),
            run: result._meta?.['io.agentmesh/run'] ?? null,
            progress,
        }),
    );
} finally {
    await client.close();
}
