"""Tests mirror agentmesh/; packages all the way up, so that tests/mcp cannot hide the mcp package."""
