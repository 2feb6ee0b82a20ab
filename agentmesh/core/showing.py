"""Showing: do the `resources` and `prompts` of a server file make sense: URIs, templates, files, functions and arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agentmesh.core.checker import Checker, World
from agentmesh.core.document import Path
from agentmesh.core.foreign import sources_of
from agentmesh.core.gateway import TOOL_NAME
from agentmesh.core.inference import STRING, JsonSchema, closest
from agentmesh.core.mesh import offered_name
from agentmesh.core.scope import closed
from agentmesh.core.server_file import PromptMessageSpec, PromptSpec, ResourceSpec, ServerFile
from agentmesh.core.shape import Source
from agentmesh.core.uri_template import check_uri, is_template, uri_template

OWN = "mesh:"
"""Scheme of the mesh's own resources."""
_MIME = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*(\s*;.*)?")


class ShowingChecker(Checker):
    """What a server file shows, beside its tools."""

    def __init__(self, world: World, source: Source[ServerFile]) -> None:
        super().__init__(world, source)
        self.server = source.value

    def check(self) -> None:
        for name, resource in self.server.resources.items():
            self.resource(("resources", name), resource)
        for name, prompt in self.server.prompts.items():
            self.prompt(("prompts", name), offered_name(self.server, name), prompt)

    # Resources

    def resource(self, path: Path, spec: ResourceSpec) -> None:
        self.one_of(path, "a resource", ("text", "file", "python"))
        names = self.uri((*path, "uri"), spec.uri)
        types = {"input": closed(dict.fromkeys(names, STRING), required=True)}
        if spec.mime is not None and not _MIME.fullmatch(spec.mime):
            self.fault((*path, "mime"), f"{spec.mime!r} is no MIME type: text/plain, image/png")
        if spec.text is not None:
            self.template((*path, "text"), types)
            if spec.subscribe:
                self.fault(
                    (*path, "subscribe"), "a `text` stands in this file and does not change; leave it out", key=True
                )
        if spec.file is not None:
            self.file((*path, "file"), spec.file, types)
        if spec.python is not None:
            self.function((*path, "python"), spec.python, names, names, "the URI")

    def uri(self, path: Path, uri: str) -> tuple[str, ...]:
        """The names of a URI's values."""
        if "${{" in uri:
            self.world.visited.add((self.document.file, path))
            self.fault(path, "an expression may not stand here; a value in a URI is written {NAME}")
            return ()
        if uri.lower().startswith(OWN):
            self.fault(path, "mesh:// is where the mesh shows its own runs and workflows; take another scheme")
        try:
            if is_template(uri):
                return uri_template(uri).names
            check_uri(uri)
        except ValueError as error:
            self.fault(path, f"{uri!r} {error}" if str(error).startswith(("is ", "has ")) else str(error))
        return ()

    # Prompts

    def prompt(self, path: Path, offered: str, spec: PromptSpec) -> None:
        if not TOOL_NAME.fullmatch(offered):
            message = (
                f"{path[-1]!r} cannot name a prompt: letters, digits, '_', '-' and '.', at most 64 with the server's"
            )
            self.fault(path, message, key=True)
        self.one_of(path, "a prompt", ("messages", "python"))
        if self.document.get((*path, "messages")) == []:
            self.fault((*path, "messages"), "must not be empty", key=True)
        for name, argument in spec.arguments.items():
            at = (*path, "arguments", name)
            if not (name.isidentifier() and name.isascii()):
                self.fault(at, f"{name!r} cannot name an argument: letters, digits and '_'", key=True)
            if argument.values == []:
                self.fault((*at, "values"), "must not be empty: leave it out to offer nothing", key=True)
        types = {"input": closed(dict.fromkeys(spec.arguments, STRING), required=True)}
        for i, said in enumerate(spec.messages):
            self.message((*path, "messages", i), said, types)
        if spec.python is not None:
            required = tuple(name for name, said in spec.arguments.items() if said.required)
            self.function((*path, "python"), spec.python, tuple(spec.arguments), required, "the prompt")

    def message(self, path: Path, spec: PromptMessageSpec, types: Mapping[str, JsonSchema]) -> None:
        self.one_of(path, "a message", ("text", "resource", "file"))
        if spec.text is not None:
            self.template((*path, "text"), types)
        if spec.resource is not None:
            self.template((*path, "resource"), types)
            self.embedded((*path, "resource"), spec.resource)
        if spec.file is not None:
            self.file((*path, "file"), spec.file, types)

    def embedded(self, path: Path, uri: str) -> None:
        """A URI that is written out must mean something, where only this mesh's files could say what."""
        if "${{" in uri or uri.startswith(OWN) or sources_of(self.world.mesh) or "tools" in self.world.unsure:
            return
        known = self.world.mesh.resources
        if uri in known:
            return
        for other in known:
            try:
                if is_template(other) and uri_template(other).match(uri) is not None:
                    return
            except ValueError:
                return  # told where it stands
        self.fault(path, f"there is no resource {uri!r}{closest(uri, known)}")

    # Shared

    def one_of(self, path: Path, what: str, names: Sequence[str]) -> None:
        given = [name for name in names if self.document.get((*path, name)) is not None]
        if len(given) > 1 or (not given and not self.damaged(path)):
            says = f"this has {' and '.join(given)}" if given else "this has none"
            self.fault(path, f"{what} has exactly one of {', '.join(names)}; {says}", key=True)

    def file(self, path: Path, file: str, types: Mapping[str, JsonSchema]) -> None:
        """A file that is there; with an expression in it, a folder that is fixed and lies within the mesh's."""
        fixed, expression, _ = file.partition("${{")
        if expression:
            self.template(path, types)
            folder = fixed.rpartition("/")[0]
            if not folder:
                self.fault(
                    path,
                    "the folder must be written out, as in docs/${{ input.name }}.md: callers choose only the rest",
                )
            elif message := self.world.find_path(folder, "folder"):
                self.fault(path, message)
        elif message := self.world.find_path(file, "file"):
            self.fault(path, message)

    def function(self, path: Path, name: str, given: Sequence[str], always: Sequence[str], whose: str) -> None:
        """Whether an installed function takes what it is given: `always` of it in every call."""
        function = self.python(path)
        if function is None or function.parameters is None:
            return
        for argument in given:
            if argument not in function.parameters:
                hint = (
                    closest(argument, function.parameters)
                    or f"; it takes {', '.join(function.parameters) or 'nothing'}"
                )
                self.fault(path, f"{name!r} takes no {argument!r}, which {whose} has{hint}")
        for argument in function.required:
            if argument not in always:
                self.fault(
                    path,
                    f"{name!r} needs {argument!r}, which {whose} does not {'require' if argument in given else 'have'}",
                )
