"""The placeholders of a task's environment, host name and mounts: `{{.Service.Name}}`, `{{index .Service.Labels "tier"}}`. Pure.

Of Go's templates, which Swarm uses, this is what documentation and compose files show: members, and values of labels. Source of
the names: SwarmKit `template/context.go`.
"""

import re
from collections.abc import Mapping
from typing import TypeAlias

from pyswarm_agent.templates import fill_template
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Record
from pyswarm_common.wire import TaskAssignment

Values: TypeAlias = Mapping[str, str | Mapping[str, str]]
"""What each path (`.Service.Name`) stands for."""

LONGEST_TEXT = 128 * 1024
"""No variable that a process is given can be longer."""
_INDEX = re.compile(r"""index\s+(\.[\w.]+)\s+(?:"([^"]*)"|`([^`]*)`)""")
_LITERAL = re.compile(r"""(?:"([^"]*)"|`([^`]*)`)""")


class NodeNames(Record, frozen=True, kw_only=True):
    """What placeholders may tell of the node."""

    id: str
    hostname: str
    architecture: str = ""
    os: str = "linux"


def placeholder_values(assignment: TaskAssignment, node: NodeNames) -> Values:
    """Return what the placeholders of a task stand for on its node."""
    return {
        ".Service.ID": assignment.service_id,
        ".Service.Name": assignment.service_name,
        ".Service.Labels": assignment.service_labels,
        ".Node.ID": node.id,
        ".Node.Hostname": node.hostname,
        ".Node.Platform.Architecture": node.architecture,
        ".Node.Platform.OS": node.os,
        ".Task.ID": assignment.task_id,
        ".Task.Name": assignment.name,
        ".Task.Slot": assignment.place,
    }


def expand(text: str, values: Values, field: str) -> str:
    """Return `text` with its placeholders filled in; a label that is not there is "".

    Raises InvalidArgument for unknown ones, and when the result would be longer than `LONGEST_TEXT`.
    """
    if "{{" not in text:
        return text
    return fill_template(text, lambda piece: value_of(piece.text, values, field), field, longest=LONGEST_TEXT)


def value_of(inner: str, values: Values, field: str) -> str:
    """Return what a placeholder stands for, given without its braces. Raises InvalidArgument for an unknown one."""
    if literal := _LITERAL.fullmatch(inner):
        return literal.group(1) or literal.group(2) or ""
    if index := _INDEX.fullmatch(inner):
        path, key = index.group(1), index.group(2) or index.group(3) or ""
    else:
        path, key = inner, ""
        if path not in values:
            path, _, key = inner.rpartition(".")
    found = values.get(path)
    if isinstance(found, str) and not key:
        return found
    if isinstance(found, Mapping):
        return found.get(key, "") if key else f"map[{' '.join(f'{k}:{v}' for k, v in sorted(found.items()))}]"
    known = ", ".join(sorted(values))
    raise InvalidArgument(
        f"expanding {field} failed: cannot evaluate {{{{{inner}}}}}; known are {known}, and index .Service.Labels with a name"
    )
