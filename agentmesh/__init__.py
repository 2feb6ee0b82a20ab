"""AgentMesh: MCP tools, A2A agents and durable workflows on models you host yourself."""

__version__ = "0.1.0"
