"""Tasks as `service ps` and `node ps` show them. Pure but for `Names.read`.

Per slot the newest task comes first, its predecessors below it with ` \\_ ` before their names. Errors are shown whole: they
are what one looks here for.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.output import short_id
from pyswarm_cli.service.modes import total_completions
from pyswarm_cli.units import format_age, parse_time_s

TASK_COLUMNS = {
    "ID": "ID",
    "NAME": "Name",
    "IMAGE": "Image",
    "NODE": "Node",
    "DESIRED STATE": "DesiredState",
    "CURRENT STATE": "CurrentState",
    "ERROR": "Error",
    "PORTS": "Ports",
}
HISTORY_PREFIX = " \\_ "
_DIGITS = re.compile(r"(\d+)")
_DIGEST = re.compile(r"(?<=[^@])@sha256:[0-9a-f]{64}$")


class Names(NamedTuple):
    """What ids mean: services and nodes by id."""

    services: Mapping[str, str]
    nodes: Mapping[str, str]
    counted_from_zero: frozenset[str] = frozenset()
    """The ids of replicated jobs: their slots are counted from 0, which the API leaves out."""

    @classmethod
    def read(cls, engine: EngineClient) -> "Names":
        """Ask the daemon."""
        return cls.of_services(engine.get("services"), node_names(engine.get("nodes")))

    @classmethod
    def of_services(cls, services: Collection[Mapping[str, Any]], nodes: Mapping[str, str]) -> "Names":
        """Return the names of these services, and of the nodes."""
        from_zero = frozenset(each["ID"] for each in services if total_completions(each["Spec"]) is not None)
        return cls({each["ID"]: each["Spec"]["Name"] for each in services}, nodes, from_zero)


def node_names(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the names of nodes by id: their own, else their host's."""
    return {each["ID"]: each["Spec"].get("Name") or each["Description"].get("Hostname") or each["ID"] for each in nodes}


def task_base_name(task: Mapping[str, Any], names: Names) -> str:
    """Return `web.1`, or `web.NODE-ID` for a task of a global service."""
    service_id = task.get("ServiceID", "")
    service = names.services.get(service_id, service_id)
    slot = task.get("Slot", 0)
    if slot or service_id in names.counted_from_zero:
        return f"{service}.{slot}"
    return f"{service}.{task.get('NodeID') or task['ID']}"


def task_rows(tasks: Iterable[Mapping[str, Any]], names: Names, now_s: float, *, whole_ids: bool) -> list[dict[str, str]]:
    """Return tasks as rows, sorted by service and slot, newest first in each."""
    by_age = sorted(tasks, key=lambda task: (task["CreatedAt"], task["ID"]), reverse=True)
    rows, before = [], ""
    for task in sorted(by_age, key=lambda task: natural_key(task_base_name(task, names))):
        name = task_base_name(task, names)
        row = _task_row(task, names, now_s, whole_ids=whole_ids)
        rows.append({**row, "Name": f"{HISTORY_PREFIX}{name}" if name == before else name})
        before = name
    return rows


def natural_key(text: str) -> list[list[tuple[int, str]]]:
    """Return a sort key by which `web.10` comes after `web.9`, and `web2.1` after both."""
    return [
        [(int(part), "") if part.isdigit() else (-1, part) for part in _DIGITS.split(segment) if part]
        for segment in text.split(".")
    ]


def task_error(task: Mapping[str, Any]) -> str:
    """Return why a task failed, or is not placed yet; without it its exit code when that is not 0."""
    status = task["Status"]
    error = str(status.get("Err") or "")
    exit_code = (status.get("ContainerStatus") or {}).get("ExitCode", 0)
    if not error and status["State"] == "failed" and exit_code:
        return f"task: non-zero exit ({exit_code})"
    return error


def _task_row(task: Mapping[str, Any], names: Names, now_s: float, *, whole_ids: bool) -> dict[str, str]:
    status = task["Status"]
    image = (task["Spec"].get("ContainerSpec") or {}).get("Image", "")
    age = format_age(now_s - parse_time_s(status["Timestamp"]))
    ports = (status.get("PortStatus") or {}).get("Ports") or ()
    node_id = task.get("NodeID", "")
    return {
        "ID": short_id(task["ID"], whole=whole_ids),
        "Image": image if whole_ids else _DIGEST.sub("", image),
        "Node": names.nodes.get(node_id, node_id),
        "DesiredState": task["DesiredState"].capitalize(),
        "CurrentState": f"{status['State'].capitalize()} {age[0].lower()}{age[1:]} ago",
        "Error": task_error(task),
        "Ports": ",".join(f"*:{port['PublishedPort']}->{port['TargetPort']}/{port['Protocol']}" for port in ports),
    }
