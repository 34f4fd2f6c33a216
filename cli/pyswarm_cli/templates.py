"""`--format`: a table, JSON, or a template with `{{.Field}}`: the part of Go's templates that scripts use. Pure."""

import json
import re
from collections.abc import Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"{{\s*(json\s+)?\.([\w.]*)\s*}}")
_ESCAPES = {"\\t": "\t", "\\n": "\n"}


def fill(template: str, value: Any) -> str:
    """Return the template with each `{{.Path.To.Member}}` (or `{{json .Path}}`) of `value` put in.

    Raises ValueError for a member that there is not, and for anything else between `{{` and `}}`.
    """
    for written, meant in _ESCAPES.items():
        template = template.replace(written, meant)

    def replace(match: re.Match[str]) -> str:
        found = _member(value, match[2])
        return json.dumps(found) if match[1] else _as_text(found)

    rest = _PLACEHOLDER.sub("", template)
    if "{{" in rest:
        raise ValueError(f"the template {template!r} holds more than {{{{.Field}}}} and {{{{json .Field}}}}")
    return _PLACEHOLDER.sub(replace, template)


def fields(template: str) -> list[str]:
    """Return the members that a template names."""
    return [match[1] for match in _PLACEHOLDER.findall(template)] if "{{" in template else []


def _member(value: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        if not isinstance(value, Mapping) or name not in value:
            known = ", ".join(value) if isinstance(value, Mapping) else "nothing"
            raise ValueError(f"there is no .{path}; there is: {known}")
        value = value[name]
    return value


def _as_text(value: Any) -> str:
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)
