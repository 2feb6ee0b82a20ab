// Looks at everything a served mesh offers beside plain tools, with the official TypeScript client, and prints it as one line of JSON.
//
//   node offered.mjs URL ERA
//
// ERA is 2026 (probes server/discover, and must find 2026-07-28) or 2025 (initialize). The mesh is that of test_mcp_clients.py.

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const [target, era] = process.argv.slice(2);
if (!['2026', '2025'].includes(era)) {
    console.error('usage: node offered.mjs URL 2026|2025');
    process.exit(2);
}
const client = new Client(
    { name: 'agentmesh-e2e', version: '1.0.0' },
    { versionNegotiation: { mode: era === '2026' ? { pin: '2026-07-28' } : 'legacy' } },
);
try {
    await client.connect(new StreamableHTTPClientTransport(new URL(target)));
    const { tools } = await client.listTools();
    const found = await client.callTool({ name: 'search_tools', arguments: { query: 'shout a text' } });
    const name = found.structuredContent.matches[0].name;
    const called = await client.callTool({ name: 'call_tool', arguments: { name, arguments: { text: 'hi' } } });
    const { resources } = await client.listResources();
    const { resourceTemplates } = await client.listResourceTemplates();
    const read = await client.readResource({ uri: 'desk://orders/7' });
    let missing = null;
    try {
        await client.readResource({ uri: 'desk://nothing' });
    } catch (error) {
        missing = error.code;
    }
    const { prompts } = await client.listPrompts();
    const prompt = await client.getPrompt({ name: 'desk.greet', arguments: { name: 'Ada' } });
    const completed = await client.complete({
        ref: { type: 'ref/prompt', name: 'desk.greet' },
        argument: { name: 'tone', value: 'fr' },
    });
    console.log(
        JSON.stringify({
            version: client.getNegotiatedProtocolVersion(),
            tools: tools.map((one) => one.name),
            matched: found.structuredContent.matched,
            called: called.structuredContent,
            resources: resources.map((one) => one.uri),
            templates: resourceTemplates.map((one) => one.uriTemplate),
            read: read.contents,
            missing,
            prompts: prompts.map((one) => one.name),
            prompt: prompt.messages,
            completed: completed.completion.values,
        }),
    );
} finally {
    await client.close();
}
