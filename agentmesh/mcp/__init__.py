"""MCP: the mesh's tools for IDE agents, over streamable HTTP in both eras of the protocol, and over stdio by a pipe."""
