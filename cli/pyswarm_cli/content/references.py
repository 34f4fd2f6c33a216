"""`--secret` and `--config` of services: from their texts to the API's references, which hold ids as well as names.

Raises click.BadParameter and click.ClickException.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.key_values import parse_fields

NOUNS = ("secret", "config")
Reference = dict[str, Any]

_FIELDS = {"source": "Source", "src": "Source", "target": "Name", "uid": "UID", "gid": "GID", "mode": "Mode"}


def parse_reference(text: str, noun: str) -> Reference:
    """Return the reference in `key`, or in `source=key,target=/etc/key,uid=33,gid=33,mode=0400`; without the id."""
    option = f"--{noun}"
    given = parse_fields(text, option, _FIELDS) if "=" in text or "," in text else {"Source": text}
    if not given.get("Source"):
        raise click.BadParameter(f"{option} {text!r}: source=NAME is missing")
    file = {"Name": given.get("Name") or given["Source"], "UID": given.get("UID", "0"), "GID": given.get("GID", "0")}
    kind = noun.capitalize()
    return {
        "File": {**file, "Mode": _mode(given.get("Mode", "0444"), f"{option} {text!r}")},
        f"{kind}ID": "",
        f"{kind}Name": given["Source"],
    }


def resolved_references(engine: EngineClient, noun: str, texts: Iterable[str]) -> list[Reference]:
    """Return the references in some options, with the ids that their names have now."""
    references = [parse_reference(text, noun) for text in texts]
    if not references:
        return []
    kind = noun.capitalize()
    names = {reference[f"{kind}Name"] for reference in references}
    found = engine.get(f"{noun}s", filters={"name": dict.fromkeys(sorted(names), True)})
    ids = {each["Spec"]["Name"]: each["ID"] for each in found}
    missing = sorted(names - ids.keys())
    if missing:
        raise click.ClickException(f"{noun} not found: {', '.join(missing)}")
    return [{**reference, f"{kind}ID": ids[reference[f"{kind}Name"]]} for reference in references]


def with_references(engine: EngineClient, options: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
    """Return the options of a service with the references themselves in place of `secret` and `config` (or `secret_add`, …)."""
    resolved = {f"{noun}{suffix}": resolved_references(engine, noun, options[f"{noun}{suffix}"]) for noun in NOUNS}
    return {**options, **resolved}


def changed_references(container: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, list[Reference]]:
    """Return the members of a container's spec that `--secret-rm`, `--secret-add` and those of configs change."""
    changed = {}
    for noun in NOUNS:
        added, removed = options[f"{noun}_add"], options[f"{noun}_rm"]
        if added or removed:
            before: Sequence[Reference] = container.get(f"{noun.capitalize()}s") or ()
            kept = [each for each in before if each[f"{noun.capitalize()}Name"] not in removed]
            changed[f"{noun.capitalize()}s"] = [*kept, *added]
    return changed


def described_references(container: Mapping[str, Any], noun: str) -> list[str]:
    """Return the secrets or configs of a container's spec for people: `key as /etc/key`."""
    kind = noun.capitalize()
    references: Sequence[Reference] = container.get(f"{kind}s") or ()
    return [f"{each[f'{kind}Name']} as {(each.get('File') or {}).get('Name', 'nothing')}" for each in references]


def _mode(text: str, what: str) -> int:
    """As Go reads a number: octal behind a 0."""
    try:
        return int(text, 8 if text.startswith("0") and text[1:].isdigit() else 0)
    except ValueError:
        raise click.BadParameter(f"{what}: the mode {text!r} is no number such as 0440") from None
