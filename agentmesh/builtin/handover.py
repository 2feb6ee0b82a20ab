"""First plans of the three agents that a triaged log is handed to: what to open, what to run, what to do.

Plain functions of a finding (the output of `triage`), without I/O and without a model. What was taken from a log is
quoted for the shell where it stands in a command; nothing is run here.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

Finding = dict[str, Any]


def fix_code(finding: Finding) -> dict[str, Any]:
    """For a check that failed, an import, a syntax or type error, or a lint rule in the project's own code."""
    cause, where = finding["cause"], _place(finding)
    steps = {
        "assertion": [
            "Read the assertion and the code it calls.",
            "Decide which of the two is wrong, and correct that one.",
        ],
        "import": [
            "Check the name's spelling and where the module lies.",
            "Correct the import, or move the module to where it is looked for.",
        ],
        "syntax": ["Read the line and the one above it: an open bracket or quote often begins there.", "Correct it."],
        "type": [
            "Compare what the call gives with what the definition takes.",
            "Correct the caller, or the declared type.",
        ],
        "lint": ["Apply the rule, or state at the line why it does not hold there."],
    }.get(cause, ["Read the quoted lines and the code around the place."])
    if where:
        steps = [f"Open {where}.", *steps]
    return _plan("fix-code", finding, _test_command(finding), [*steps, "Run the command again; it must pass."])


def fix_dependency(finding: Finding) -> dict[str, Any]:
    """For something to install that is missing, or that cannot be resolved."""
    text = "\n".join(finding.get("quotes") or [])
    for pattern, command, step in _PACKAGES:
        if match := re.search(pattern, text):
            name = re.split(r"[\[=<>!~]", match[1])[0]
            package = _NAMED_OTHERWISE.get(name.split(".")[0], name)
            steps = [step.format(package), "Add it to the project's list of dependencies.", "Run the build again."]
            return _plan("fix-dependency", finding, [command.format(shlex.quote(package))], steps)
    return _plan(
        "fix-dependency", finding, [],
        ["Read the quoted line for the name of what is missing.", "Check that the version asked for exists.",
         "Correct the project's list of dependencies, then install and build again."],
    )  # fmt: skip


def look_at_machine(finding: Finding) -> dict[str, Any]:
    """For the machine the log came from: network, time, memory, permissions, a crash, or what nobody recognised."""
    text = "\n".join(finding.get("quotes") or [])
    host = re.search(
        r"(?:https?://|host[ =:]+'?|resolve (?:host:? ?)?'?|to )((?:[a-z0-9-]+\.)+[a-z]{2,}|localhost)",
        text,
        re.IGNORECASE,
    )
    path = re.search(r"(/[\w.+@~-]+(?:/[\w.+@~-]+)*)", text)
    commands: dict[str, list[str]] = {
        "network": [f"getent hosts {shlex.quote(host[1])}", f"curl -sSI --max-time 10 https://{shlex.quote(host[1])}"]
        if host else ["getent hosts example.com", "ip route"],
        "timeout": ["uptime", "vmstat 1 5"],
        "memory": ["free -m", "dmesg --ctime | grep -i 'killed process' | tail"],
        "permission": ["id", *([f"ls -ld {shlex.quote(path[1])}"] if path else [])],
        "crash": ["coredumpctl list | tail", "dmesg --ctime | grep -i segfault | tail"],
    }  # fmt: skip
    steps = {
        "network": [
            "Find out whether the name resolves and the host answers from that machine.",
            "Try again once it does.",
        ],
        "timeout": [
            "See whether the machine was busy, or what was waited for is slow.",
            "Raise the limit only if it is merely slow.",
        ],
        "memory": ["See what used the memory.", "Give the job more, or run fewer at once."],
        "permission": [
            "Compare the user with the owner and mode of what was refused.",
            "Correct the owner or mode, not by making it writable to all.",
        ],
        "crash": ["Find the core dump and its backtrace.", "Look for the same crash with another version or machine."],
    }.get(finding["cause"], ["Read the quoted lines with what ran before them on that machine."])
    return _plan("look-at-machine", finding, commands.get(finding["cause"], []), steps)


_PACKAGES = (
    (r"No module named '?([\w.]+)", "pip install {}", "Install the Python package {}."),
    (
        r"No matching distribution found for (\w[\w.\[\]=<>!~-]*)",
        "pip index versions {}",
        "Find a version of {} that exists for this Python.",
    ),
    (
        r"Could not find a version that satisfies the requirement (\w[\w.\[\]=<>!~-]*)",
        "pip index versions {}",
        "Find a version of {} that exists for this Python.",
    ),
    (r"Cannot find (?:module|package) '((?:@[\w.-]+/)?\w[\w.-]*)", "npm install {}", "Install the npm package {}."),
    (
        r"404\s+'?((?:@[\w.-]+/)?\w[\w.-]*)@\S*'? is not in",
        "npm view {} versions",
        "Check the name {}: the registry does not have it.",
    ),
    (
        r"fatal error: (\w[\w./+-]*\.h(?:pp)?): No such file",
        "apt-file search {}",
        "Install the development package that holds {}.",
    ),
    (r"cannot find -l(\w[\w+-]*)", "ldconfig -p | grep -F {}", "Install the library {}."),
    (r"no matching package named `(\w[\w-]*)`", "cargo search {}", "Correct the name of the crate {}."),
    (r"can't find crate for `(\w[\w-]*)`", "cargo add {}", "Add the crate {}."),
    (
        r"error: package ([\w.]+) does not exist",
        "mvn dependency:tree -Dincludes={}",
        "Add the artifact that holds {}.",
    ),
)
"""What names the thing that is missing, the command that looks for it, and what to do."""
_NAMED_OTHERWISE = {
    "yaml": "PyYAML",
    "cv2": "opencv-python",
    "PIL": "Pillow",
    "sklearn": "scikit-learn",
    "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
}


def _place(finding: Finding) -> str:
    if not finding.get("file"):
        return ""
    return f"{finding['file']}:{finding['line']}" if finding.get("line") else str(finding["file"])


def _test_command(finding: Finding) -> list[str]:
    """The command that shows the fault again, by the kind of file and the subject."""
    file, subject = str(finding.get("file") or ""), str(finding.get("subject") or "")
    suffix = file.rpartition(".")[2].lower()
    name = shlex.quote(re.split(r"::|\.|#", subject.split("[", 1)[0])[-1].lstrip("-")) if subject else ""
    file = f"./{file}" if file.startswith("-") else file
    test = bool(re.search(r"test", subject, re.IGNORECASE))
    match suffix:
        case "py":
            return [f"python -m pytest -x -k {name}" if test else f"python -m pytest -x {shlex.quote(file)}"]
        case "java" | "kt" | "scala":
            return [f"mvn -q test -Dtest={name}" if test else "mvn -q compile"]
        case "js" | "mjs" | "cjs" | "jsx":
            return [f"node --test {shlex.quote(file)}" if test else f"node --check {shlex.quote(file)}"]
        case "ts" | "tsx":
            return ["npx tsc --noEmit"]
        case "rs":
            return [f"cargo test {name}" if test else "cargo check"]
        case "go":
            return [f"go test ./... -run {name}" if test else "go build ./..."]
        case "c" | "cc" | "cpp" | "cxx" | "h" | "hpp":
            return ["make"]
    return []


def _plan(agent: str, finding: Finding, run: list[str], steps: list[str]) -> dict[str, Any]:
    file = finding.get("file")
    return {
        "agent": agent,
        "summary": str(finding.get("summary") or ""),
        "open": [{"file": file, "line": finding.get("line")}] if file else [],
        "run": run,
        "steps": steps,
    }
