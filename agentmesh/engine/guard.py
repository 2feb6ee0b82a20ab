"""Guard: asks the policies before every verb. The one place in the engine where a Decision becomes an error."""

from __future__ import annotations

from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Action, Decision, Principal, decide
from agentmesh.core.run import Run
from agentmesh.errors import PolicyDenied

LOCAL = "local"


class Guard:
    """The policies of one mesh, asked: those that it has when it is asked."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def authorize(self, principal: Principal, action: Action) -> Decision:
        """The decision when it allows; PolicyDenied names the rule when it does not."""
        decision = decide(self._mesh.policies, principal, action)
        if not decision.allowed:
            reason = f": {decision.reason}" if decision.reason else ""
            raise PolicyDenied(
                f"{principal.subject} may not do {action.verb} on {action.resource} ({decision.rule}{reason})",
                rule=decision.rule,
            )
        return decision

    def decide(self, principal: Principal, action: Action) -> Decision:
        """What the policies say, without an error."""
        return decide(self._mesh.policies, principal, action)

    def allows(self, principal: Principal, action: Action) -> bool:
        return decide(self._mesh.policies, principal, action).allowed


def resource_of(workflow: str) -> str:
    """The resource that policies name a run by: its workflow, or the tool it is the one step of."""
    return workflow if ":" in workflow else f"workflow:{workflow}"


def owns(principal: Principal, run: Run) -> bool:
    """Whether a run is the principal's to see. `local` is the operator of an open server and sees its whole tenant."""
    return run.tenant == principal.tenant and principal.subject in (LOCAL, run.owner)
