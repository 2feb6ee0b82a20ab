"""Identity: who is asking."""

from __future__ import annotations

from types import MappingProxyType

from agentmesh.core.policy import Principal
from agentmesh.core.run import Run

_OPEN = Principal(subject="local", tenant="local", claims=MappingProxyType({}))


def principal_for_open_server() -> Principal:
    """Who everybody is on a server that listens on loopback only and asks for no token."""
    return _OPEN


def principal_for_cron(workflow: str, tenant: str = "local") -> Principal:
    """Who starts a workflow when its time has come."""
    return Principal(subject=f"cron:{workflow}", tenant=tenant)


def principal_of(run: Run) -> Principal:
    """Who a run's steps act for: whoever started it. Claims of a token are not kept with a run."""
    return Principal(subject=run.owner, tenant=run.tenant)


def principal_for_webhook(workflow: str, tenant: str = "local") -> Principal:
    """Who starts a workflow when its webhook is called by somebody who knows the secret."""
    return Principal(subject=f"webhook:{workflow}", tenant=tenant)
