"""Case files: workflows/NAME.cases.yaml and the recordings beside them, read and written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmesh.adapters.yaml_document import MAX_BYTES, read_yaml
from agentmesh.core.casebook import RECORDINGS, SUFFIX, Case, CaseFile, faults_of
from agentmesh.core.shape import Source, read_shape
from agentmesh.errors import Fault, InvalidInput, ProjectError

FORMAT = 1
LARGEST = 64 * 1024 * 1024
"""Bytes of a file of recordings."""
MAX_TEXT = 4 * 1024 * 1024
"""Bytes of a text that a case reads from a file."""


@dataclass(frozen=True)
class Cases:
    """The cases of one workflow. `calls`: what was recorded, by case."""

    file: Path
    workflow: str
    cases: Sequence[Case]
    calls: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def recordings(self) -> Path:
        return self.file.with_name(self.file.name.removesuffix(SUFFIX) + RECORDINGS)

    def input_of(self, case: Case) -> dict[str, Any]:
        """A case's input, with what stands in files. InvalidInput when one cannot be read."""
        given = dict(case.input)
        for name, relative in case.files.items():
            try:
                with (self.file.parent / relative).open("rb") as file:
                    content = file.read(MAX_TEXT + 1)
            except OSError as error:
                raise InvalidInput(
                    f"case {case.name!r}: cannot read {relative!r}: {(error.strerror or str(error)).lower()}"
                ) from None
            if len(content) > MAX_TEXT:
                raise InvalidInput(f"case {case.name!r}: {relative!r} has more than {MAX_TEXT:,} bytes")
            given[name] = content.decode("utf-8", "replace")
        return given

    def write(self, calls: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Keeps recordings, in the order of the cases; those of cases that were not run stay."""
        kept = {**self.calls, **calls}
        document = {
            "format": FORMAT,
            "workflow": self.workflow,
            "cases": {case.name: list(kept[case.name]) for case in self.cases if case.name in kept},
        }
        self.recordings.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read_cases(folder: Path, workflows: Mapping[str, Any]) -> list[Cases]:
    """Every file of cases of a mesh folder. ProjectError carries every fault there is."""
    found: list[Cases] = []
    faults: list[Fault] = []
    for file in sorted(_files(folder)):
        name = file.name.removesuffix(SUFFIX)
        try:
            source = _read(file, f"workflows/{file.name}", name, faults)
            if source is None:
                continue
            faults += faults_of(source, workflows, name)
            workflow = source.value.workflow or name
            found.append(Cases(file, workflow, source.value.cases, _recorded(file.with_name(name + RECORDINGS))))
        except ProjectError as error:
            faults += error.faults
    if faults:
        raise ProjectError(faults)
    return found


def _files(folder: Path) -> Iterator[Path]:
    workflows = folder / "workflows"
    if workflows.is_dir():
        yield from (
            path for path in workflows.iterdir() if path.name.endswith(SUFFIX) and not path.name.startswith(".")
        )


def _read(file: Path, shown: str, name: str, faults: list[Fault]) -> Source[CaseFile] | None:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProjectError([Fault(shown, 0, 0, f"cannot be read: {(error.strerror or str(error)).lower()}")]) from None
    source, found = read_shape(read_yaml(data, shown), CaseFile, name)
    faults += found
    return None if found else source


def _recorded(file: Path) -> dict[str, list[dict[str, Any]]]:
    if not file.is_file():
        return {}
    shown = f"workflows/{file.name}"
    if file.stat().st_size > LARGEST:
        raise ProjectError([Fault(shown, 0, 0, f"the file has more than {LARGEST:,} bytes")])
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ProjectError(
            [Fault(shown, 0, 0, f"is not JSON: {error}; `agentmesh test --record` writes it anew")]
        ) from None
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or not isinstance(document.get("cases"), dict)
    ):
        raise ProjectError(
            [Fault(shown, 0, 0, f"has not the format {FORMAT}; `agentmesh test --record` writes it anew")]
        )
    return {name: list(calls) for name, calls in document["cases"].items()}
