"""After the healing: what all managers must come back to, and what they show then."""

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from faults.engine_client import EngineClient
from faults.history import EpochTaken, FinalState, Sight
from faults.workload import Seen, list_path
from pyswarm_cli.lab.host import Host

PATIENCE_S = 45.0
_POLL_S = 0.1
_EVENT = re.compile(r'"event": "(store\.fence_taken|store\.leading)"')
_EPOCH = re.compile(r'"epoch": (\d+)')


class NotConverged(AssertionError):
    """The cluster did not come back to one healthy state in time."""


def wait_converged(managers: Mapping[str, EngineClient], service: str, replicas: int, node_count: int) -> list[FinalState]:
    """Wait until all is well again, and return what each manager shows. Raises NotConverged with what is not well."""
    deadline_s = time.monotonic() + PATIENCE_S
    for name, client in managers.items():
        _wait(partial(_refuses_write, client, name), deadline_s)
    _wait(lambda: next(filter(None, (_unhealthy(n, c, node_count) for n, c in managers.items())), ""), deadline_s)
    _wait(lambda: _unsettled(next(iter(managers.values())), service, replicas), deadline_s)
    finals: list[FinalState] = []

    def disagreement() -> str:
        finals[:] = [_final_state(name, client) for name, client in managers.items()]
        others = [final for final in finals if final.items != finals[0].items]
        return f"{finals[0].manager} and {others[0].manager} show different objects" if others else ""

    _wait(disagreement, deadline_s)
    return finals


def epochs_taken(host: Host) -> list[EpochTaken]:
    """Return the epochs of the fence that a host's daemon said it holds, over all its starts."""
    return parse_epochs(host.name, host.log_path)


def parse_epochs(node: str, log: Path) -> list[EpochTaken]:
    """Return the epochs that a daemon's log speaks of."""
    found = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else []:
        event, epoch = _EVENT.search(line), _EPOCH.search(line)
        if event and epoch:
            found.append(EpochTaken(node=node, epoch=int(epoch[1]), event=event[1]))
    return found


def wanted_tasks(client: EngineClient, service: str) -> list[dict[str, Any]]:
    """Return the tasks of a service that are wanted running; none when the manager does not answer."""
    answer = client.ask("GET", list_path("tasks", service=[service]))
    return [t for t in answer.content if t["DesiredState"] in ("ready", "running")] if answer.is_ok else []


def _wait(problem: Callable[[], str], deadline_s: float) -> None:
    while found := problem():
        if time.monotonic() > deadline_s:
            raise NotConverged(f"not within {PATIENCE_S:g} s after the healing: {found}")
        time.sleep(_POLL_S)


def _refuses_write(client: EngineClient, name: str) -> str:
    """Create and remove a service through this manager."""
    spec = {
        "Name": f"probe-{name}",
        "TaskTemplate": {"ContainerSpec": {"Image": "none"}},
        "Mode": {"Replicated": {"Replicas": 0}},
    }
    answer = client.ask("POST", "/services/create", spec)
    if not answer.is_ok and answer.status != 409:
        return f"{name} takes no writes: {answer.status} {answer.message}"
    answer = client.ask("DELETE", f"/services/probe-{name}")
    return "" if answer.is_ok or answer.status == 404 else f"{name} takes no writes: {answer.status} {answer.message}"


def _unhealthy(name: str, client: EngineClient, node_count: int) -> str:
    answer = client.ask("GET", "/nodes")
    if not answer.is_ok:
        return f"{name} does not list nodes: {answer.status} {answer.message}"
    states = {n["Description"]["Hostname"]: n["Status"]["State"] for n in answer.content}
    if len(states) != node_count or set(states.values()) != {"ready"}:
        return f"{name} shows nodes {states}"
    managers = {n["Description"]["Hostname"]: n["ManagerStatus"] for n in answer.content if n.get("ManagerStatus")}
    leaders = [host for host, status in managers.items() if status.get("Leader")]
    reachable = all(status["Reachability"] == "reachable" for status in managers.values())
    return "" if len(leaders) == 1 and reachable else f"{name} shows managers {managers}"


def _unsettled(client: EngineClient, service: str, replicas: int) -> str:
    states = [task["Status"]["State"] for task in wanted_tasks(client, service)]
    return "" if states == ["running"] * replicas else f"the tasks of {service} are {states}"


def _final_state(name: str, client: EngineClient) -> FinalState:
    items: dict[str, Sight] = {}
    for noun in ("services", "nodes"):
        answer = client.ask("GET", list_path(noun))
        for content in answer.content if answer.is_ok else []:
            label = content["Spec"]["Name"] if noun == "services" else content["Description"]["Hostname"]
            seen = Seen(f"{noun}/{label}", content)
            items[seen.item] = Sight(item_id=seen.item_id, mark=seen.mark, depth=seen.depth, version=seen.version)
    return FinalState(manager=name, items=items)
