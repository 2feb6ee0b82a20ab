"""`python -m agentmesh` is the program `agentmesh`."""

from __future__ import annotations

from agentmesh.cli.main import main

if __name__ == "__main__":
    main()
