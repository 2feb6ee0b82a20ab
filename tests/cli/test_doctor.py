"""What `doctor` says of files that have changed under a server."""

from __future__ import annotations

from agentmesh.cli.doctor import look_at_served


def test_files_with_faults_and_what_waits_for_a_restart_are_told() -> None:
    """Each is a warning: what is served goes on."""
    faults = ["servers/x.yaml:3:1: unknown key 'y'\n    y: 1\n    ^", "servers/z.yaml: cannot be read"]
    restart = ["`models` of agentmesh.yaml has changed; it takes effect at the next start"]
    found = list(look_at_served({"faults": faults, "restart": restart}))
    assert [(one.what, one.state) for one in found] == [("files", "warn"), ("files", "warn")]
    assert (
        found[0].message
        == "2 faults in changed files, so that older ones are served: servers/x.yaml:3:1: unknown key 'y'"
    )
    assert found[1].message == restart[0]


def test_files_that_are_served_as_they_are_are_no_finding() -> None:
    """Nor is a server of before, which says nothing of them."""
    assert list(look_at_served({"revision": 3, "at": 1.0, "faults": [], "restart": []})) == []
    assert list(look_at_served({})) == []
