// The TypeScript SDK's server with an echo tool, on plain node:http behind its own checks of Host and Origin.
// Prints the port as a line of JSON when it listens. node mcp_typescript.mjs [TOOLS], run where its packages are installed.
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/"));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { McpServer, createMcpHandler } = await load("@modelcontextprotocol/server");
const { toNodeHandler, localhostHostValidation, localhostOriginValidation } = await load("@modelcontextprotocol/node");
const { z } = await load("zod");

const count = Number(process.argv[2] ?? 1);
const names = ["echo", ...Array.from({ length: count - 1 }, (_, i) => `tool_${i + 1}`)];
const inputSchema = z.object({ text: z.string() });

const handler = createMcpHandler(() => {
  const server = new McpServer({ name: "bench", version: "1.0.0" });
  for (const name of names) {
    server.registerTool(name, { description: "Echo.", inputSchema }, async ({ text }) => ({
      content: [{ type: "text", text: JSON.stringify({ text }) }],
      structuredContent: { text },
    }));
  }
  return server;
});
const node = toNodeHandler(handler);
const hostIsOurs = localhostHostValidation();
const originIsOurs = localhostOriginValidation();

const server = createServer((request, response) => {
  if (hostIsOurs(request, response) && originIsOurs(request, response)) node(request, response);
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
