"""The files that a task's container gets of its secrets and configs: where they appear, and what is in them; pure.

Source: Moby `container/container_unix.go` (targets), SwarmKit `template/context.go` (placeholders and functions in templates).
"""

import posixpath
import re
from collections.abc import Callable, Mapping

from pyswarm_agent.placeholders import NodeNames, Values, expand, placeholder_values, value_of
from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_agent.templates import TemplatePiece, fill_template
from pyswarm_common.container_settings import container_path
from pyswarm_common.container_spec import ContainerSpec, FileTarget
from pyswarm_common.errors import InvalidArgument, NotFound
from pyswarm_common.secret_spec import ContentNoun, ContentReference, content_references
from pyswarm_common.wire import FileContent, TaskAssignment

_FOLDERS: dict[ContentNoun, str] = {"secret": "/run/secrets", "config": "/"}
_LONGEST_FILE = 4 << 20
"""A template of some bytes may name a large file a thousand times."""
_CALL = re.compile(r"""(secret|config|env)\s+(?:"([^"]*)"|`([^`]*)`)""")


def container_files(
    assignment: TaskAssignment, spec: ContainerSpec, contents: Mapping[str, FileContent], node: NodeNames
) -> tuple[PrivateFile, ...]:
    """Return the files of a task's container, secrets first. `contents`: what its secrets and configs hold, by id.

    Raises NotFound for what `contents` lacks, InvalidArgument for a template that cannot be filled in.
    """
    return _Filling(assignment, spec, contents, node).files()


class _Filling:
    def __init__(
        self, assignment: TaskAssignment, spec: ContainerSpec, contents: Mapping[str, FileContent], node: NodeNames
    ) -> None:
        self._spec = spec
        self._contents = contents
        self._references = content_references(spec)
        self._values: Values = placeholder_values(assignment, node)
        self._functions: dict[str, Callable[[str], str]] = {
            "secret": lambda target: _text(self._named("secret", target).data),
            "config": lambda target: _text(self._named("config", target).data),
            "env": self._variable,
        }

    def files(self) -> tuple[PrivateFile, ...]:
        return tuple(self._file(reference, reference.file) for reference in self._references if reference.file is not None)

    def _file(self, reference: ContentReference, target: FileTarget) -> PrivateFile:
        content = self._content(reference)
        return PrivateFile(
            target=container_path(posixpath.join(_FOLDERS[reference.noun], target.name)),
            data=self._filled(reference, content.data) if content.is_template else content.data,
            user_id=int(target.uid or 0),
            group_id=int(target.gid or 0),
            mode=target.mode,
        )

    def _content(self, reference: ContentReference) -> FileContent:
        content = self._contents.get(reference.id)
        if content is None:
            raise NotFound(f"{reference.noun} {reference.name} not found: it was removed from the cluster")
        return content

    def _filled(self, reference: ContentReference, data: bytes) -> bytes:
        text, what = _text(data), f"{reference.noun} {reference.name}"

        def evaluated(piece: TemplatePiece) -> str:
            try:
                return self._evaluated(piece.text, what)
            except InvalidArgument as error:
                line = text.count("\n", 0, piece.position) + 1
                # What is in a secret must not be in an error: only where it is.
                why = error.message if reference.noun == "config" else "this placeholder cannot be filled in"
                raise InvalidArgument(f"{what}, line {line}: {why}") from None

        return fill_template(text, evaluated, what, longest=_LONGEST_FILE).encode("utf-8", "surrogateescape")

    def _evaluated(self, action: str, where: str) -> str:
        call = _CALL.fullmatch(action)
        if call is None:
            return value_of(action, self._values, where)
        return self._functions[call.group(1)](call.group(2) or call.group(3) or "")

    def _named(self, noun: ContentNoun, target: str) -> FileContent:
        """The secret or config whose file has this name, as written in the reference."""
        for reference in self._references:
            if reference.noun == noun and reference.file is not None and reference.file.name == target:
                return self._content(reference)
        raise InvalidArgument(f"{noun} target {target} not found: the task has no {noun} with this target")

    def _variable(self, name: str) -> str:
        for variable in self._spec.env or ():
            key, equals, value = variable.partition("=")
            if equals and key == name:
                return expand(value, self._values, "env")
        return ""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
