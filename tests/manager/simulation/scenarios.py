"""Scenarios in which every delay is fixed, so that nothing but the order of decisions can differ between two runs, and what is left
of a run when it has ended: its final state without ids and times."""

import re
from collections import Counter
from typing import Any

import msgspec

from pyswarm_common.objects import Service
from pyswarm_common.task_states import TaskState
from pyswarm_manager.simulator.scenario import Scenario
from pyswarm_manager.simulator.scenario_file import read_scenario
from pyswarm_manager.store.tables import View

NODES = """
[simulation]
duration = "5m"

[agents]
prepare_time = "100ms"
start_time = "200ms"
stop_time = "300ms"

[[nodes]]
name = "n"
count = 3
cpus = 4
memory = "8g"
labels = { zone = ["a", "b"] }
"""

WEB = """
[[services]]
name = "web"
replicas = 4
reservations = { cpus = 0.5 }
restart_policy = { delay = "1s", max_attempts = 2 }
"""

UPDATE = """
[[events]]
at = "5s"
do = "update"
service = "web"
image = "image:2"
"""

BROKEN = UPDATE + 'behaviour = { failure_probability = 1, fails_after = "0" }\n'
DIES_LATER = UPDATE + 'behaviour = { failure_probability = 1, fails_after = "1s" }\n'


def config(name: str, **values: str) -> str:
    """A line of a service: `update_config = { … }`."""
    return f"{name} = {{ {', '.join(f'{key} = {value}' for key, value in values.items())} }}\n"


STOP_FIRST = config("update_config", parallelism="2", delay='"2s"', monitor='"1s"')
START_FIRST = config("update_config", parallelism="1", order='"start-first"', monitor='"1s"')
ROLLING_BACK = config("update_config", parallelism="1", failure_action='"rollback"', monitor='"3s"')
PAUSING = config("update_config", parallelism="1", failure_action='"pause"', monitor='"3s"')
CONTINUING = config("update_config", parallelism="2", failure_action='"continue"', monitor='"2s"')

TEXTS = {
    "create and scale": NODES + WEB + '[[events]]\nat = "3s"\ndo = "scale"\nservice = "web"\nreplicas = 7\n'
    '[[events]]\nat = "6s"\ndo = "scale"\nservice = "web"\nreplicas = 2\n',
    "remove": NODES + WEB + '[[events]]\nat = "3s"\ndo = "remove"\nservice = "web"\n',
    "update stop-first": NODES + WEB + STOP_FIRST + UPDATE,
    "update start-first": NODES + WEB + START_FIRST + UPDATE,
    "update that rolls back": NODES + WEB + ROLLING_BACK + BROKEN,
    "update that rolls back later": NODES + WEB + ROLLING_BACK + DIES_LATER,
    "update that pauses": NODES + WEB + PAUSING + DIES_LATER,
    "update and back by hand": NODES + WEB + STOP_FIRST + UPDATE + '[[events]]\nat = "20s"\ndo = "rollback"\nservice = "web"\n',
    "drain": NODES + WEB + '[[events]]\nat = "5s"\ndo = "availability"\nnodes = "n-1"\navailability = "drain"\n',
    "node fails and returns": NODES
    + WEB
    + '[[events]]\nat = "5s"\ndo = "fail"\nnodes = "n-2"\n[[events]]\nat = "30s"\ndo = "return"\nnodes = "n-2"\n',
    "restart delays": NODES
    + '[[services]]\nname = "web"\nreplicas = 2\nrestart_policy = { delay = "2s", max_attempts = 2 }\n'
    + 'behaviour = { failure_probability = 1, fails_after = "1s" }\n',
    "replicated job": NODES
    + '[[services]]\nname = "sums"\nmode = "replicated-job"\nreplicas = 7\nmax_concurrent = 3\nbehaviour = { run_time = "1s" }\n',
    "global job": NODES + '[[services]]\nname = "sums"\nmode = "global-job"\nbehaviour = { run_time = "1s" }\n',
    "global service and a join": NODES
    + '[[services]]\nname = "agent"\nmode = "global"\n'
    + '[[events]]\nat = "5s"\ndo = "join"\nnodes = "n"\ncount = 2\n'
    + '[[events]]\nat = "9s"\ndo = "availability"\nnodes = "n-1"\navailability = "drain"\n'
    + '[[events]]\nat = "12s"\ndo = "availability"\nnodes = "n-1"\navailability = "active"\n',
    "global service is updated": NODES + '[[services]]\nname = "web"\nmode = "global"\n' + STOP_FIRST + UPDATE,
    "labels change": NODES
    + WEB
    + 'constraints = ["node.labels.zone==a"]\n'
    + '[[events]]\nat = "5s"\ndo = "label"\nnodes = "n-1"\nlabels = { zone = "b" }\n',
    "rebalance on join": NODES
    + WEB
    + 'labels = { "pyswarm.rebalance" = "true" }\n'
    + '[[events]]\nat = "5s"\ndo = "join"\nnodes = "n"\n',
    "depends on": NODES + WEB + '[[services]]\nname = "shop"\nlabels = { "pyswarm.depends_on" = "web" }\n',
}


def scenario(name: str) -> Scenario:
    """The scenario with this name."""
    return read_scenario(TEXTS[name], name)


def final_state(view: View) -> dict[str, Any]:
    """What users can tell of a cluster at rest, without ids and times: services, their tasks by slot, nodes, and task specs."""
    return {
        "services": {service.name: _service(view, service) for service in view.services},
        "nodes": sorted((n.id, n.status.state, n.spec.availability) for n in view.nodes),
        "other tasks": sum(task.service_id not in view.services for task in view.tasks),
        "task specs": sorted(spec.template_json for spec in view.task_specs),
    }


def _service(view: View, service: Service) -> dict[str, Any]:
    status = service.update_status
    tasks = Counter(
        (
            task.slot or task.node_id,
            task.desired_state.name,
            task.status.state.name,
            view.task_specs.must_get(task.task_spec_id).template_json,
            task.job_iteration,
        )
        for task in view.tasks.of_service(service.id)
    )
    return {
        "spec": service.spec_json,
        "previous spec": service.previous_spec_json,
        "template": view.task_specs.must_get(service.task_spec_id).template_json,
        "update": (status.state, re.sub(r"\b[0-9a-z]{25}\b", "ID", status.message)) if status is not None else None,
        "job iteration": service.job_iteration,
        "tasks": tasks,
        "running": sum(t.status.state is TaskState.RUNNING for t in view.tasks.of_service(service.id)),
    }


def readable(state: dict[str, Any]) -> str:
    """The state as text, for messages of tests."""
    return msgspec.json.format(msgspec.json.encode(_plain(state))).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
