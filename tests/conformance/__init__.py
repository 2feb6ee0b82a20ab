"""A mesh of fixtures for the official conformance suite of MCP, and what runs the suite on it."""
