"""Changing a service: read it, post what becomes of it, and do so again when somebody else's change came between."""

from collections.abc import Callable, Mapping
from typing import Any

from pyswarm_cli.engine import EngineClient, EngineError
from pyswarm_cli.output import warn_of
from pyswarm_cli.service.waiting import ChangedService, ended_before

_CHANGED_MEANWHILE = "update out of sequence"
_MAX_TRIES = 5

Spec = dict[str, Any]


def change_service(
    engine: EngineClient,
    name: str,
    change: Callable[[Spec], Spec],
    *,
    is_rollback: bool = False,
    headers_of: Callable[[Spec], Mapping[str, str]] = lambda _: {},
    query: Mapping[str, str] | None = None,
) -> ChangedService:
    """Post the changed spec of a service, or have it rolled back; return the service, and what there was of it before.

    `headers_of` (given the changed spec) and `query` are what else the request says. Raises EngineError, and what `change` raises.
    """
    for left in reversed(range(_MAX_TRIES)):
        found: dict[str, Any] = engine.get("services", name)
        ended = ended_before(engine, found["ID"])
        changed = change(found["Spec"])
        try:
            answer = engine.post(
                "services",
                found["ID"],
                "update",
                body=changed,
                headers=headers_of(changed),
                version=found["Version"]["Index"],
                registryAuthFrom="spec",
                rollback="previous" if is_rollback else None,
                **(query or {}),
            )
        except EngineError as error:
            if left and _CHANGED_MEANWHILE in error.message:
                continue
            raise
        warn_of(answer)
        break
    return ChangedService(found["ID"], found["Spec"]["Name"], ended, found.get("UpdateStatus"), is_rollback)
