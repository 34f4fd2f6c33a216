"""A service as `GET /services` shows it: its spec and template joined, its endpoint, its update and (asked for) its counts."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from pyswarm_common.engine_api.responses import rfc3339
from pyswarm_common.objects import Service, UpdateStatus
from pyswarm_common.specs import DEFAULT_RESTART_DELAY_NS, DEFAULT_STOP_GRACE_PERIOD_NS, SECOND_NS, PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.api.render.job import render_job, render_job_counts
from pyswarm_manager.api.render.meta import render_meta
from pyswarm_manager.api.service_spec import visible_template
from pyswarm_manager.orchestrator.global_service.eligibility import count_desired
from pyswarm_manager.orchestrator.restart import is_node_gone
from pyswarm_manager.store.tables import View

_UPDATE_DEFAULTS = {
    "Parallelism": 1,
    "FailureAction": "pause",
    "Monitor": 5 * SECOND_NS,
    "MaxFailureRatio": 0,
    "Order": "stop-first",
}
_RESTART_DEFAULTS = {"Condition": "any", "Delay": DEFAULT_RESTART_DELAY_NS, "MaxAttempts": 0}


def render_service(service: Service, view: View, version_index: int, *, inserts_defaults: bool = False) -> dict[str, Any]:
    """Return a service's JSON; with `inserts_defaults` its spec says what is in force where the user said nothing."""
    spec = _join_spec(service.spec_json, _template_json(view, service.task_spec_id))
    rendered = {
        **render_meta(service, version_index),
        "Spec": _with_defaults(spec) if inserts_defaults else spec,
    }
    if service.previous_spec_json is not None:
        rendered["PreviousSpec"] = _join_spec(service.previous_spec_json, _template_json(view, service.previous_task_spec_id))
    rendered["Endpoint"] = _render_endpoint(service)
    if service.update_status is not None and service.update_status.state:
        rendered["UpdateStatus"] = _render_update_status(service.update_status)
    return {**rendered, **render_job(service)}


def render_service_status(service: Service, view: View) -> dict[str, int]:
    """Return how many tasks run (as far as their nodes can be heard), how many should, and how many have completed (jobs)."""
    if service.spec.is_job:
        return render_job_counts(service, view)
    tasks = view.tasks.of_service(service.id)
    running = sum(t.status.state is TaskState.RUNNING and not is_node_gone(view.nodes.get(t.node_id)) for t in tasks)
    desired = sum(task.desired_state <= TaskState.RUNNING for task in tasks)
    if service.spec.is_replicated:
        desired = service.spec.replicas
    elif service.spec.mode_name == "global":
        desired = count_desired(view, service)
    return {"RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": 0}


def service_mode(service: Service) -> str:
    """Return the mode's word in filters: `replicated`, `global`, `replicated-job` or `global-job`."""
    return service.spec.mode_name


def _template_json(view: View, task_spec_id: str) -> bytes:
    task_spec = view.task_specs.get(task_spec_id)
    return task_spec.template_json if task_spec is not None else b"{}"


@lru_cache(maxsize=4096)
def _join_spec(spec_json: bytes, template_json: bytes) -> dict[str, Any]:
    """The whole spec in Docker's order of members. Shared between answers: never change it."""
    spec = msgspec.json.decode(spec_json, type=dict[str, Any])
    first = {"Name": spec.pop("Name", ""), "Labels": spec.pop("Labels", {})}
    return {**first, "TaskTemplate": visible_template(template_json), **spec}


def _with_defaults(spec: dict[str, Any]) -> dict[str, Any]:
    """Fill in SwarmKit's defaults (`api/defaults/service.go`)."""
    template = spec["TaskTemplate"]
    container = template.get("ContainerSpec", {})
    filled_container = {"StopGracePeriod": DEFAULT_STOP_GRACE_PERIOD_NS, "DNSConfig": {}, **container}
    filled_template = {
        "Resources": {},
        "Placement": {},
        **template,
        "ContainerSpec": filled_container,
        "RestartPolicy": {**_RESTART_DEFAULTS, **template.get("RestartPolicy", {})},
    }
    filled = {"EndpointSpec": {"Mode": "vip"}, **spec, "TaskTemplate": filled_template}
    if {"ReplicatedJob", "GlobalJob"} & set(spec.get("Mode", {})):
        return filled  # a job may not have an update config: clients post back what they read
    return {
        **filled,
        "UpdateConfig": _filled_update_config(spec.get("UpdateConfig")),
        "RollbackConfig": _filled_update_config(spec.get("RollbackConfig")),
    }


def _filled_update_config(posted: dict[str, Any] | None) -> dict[str, Any]:
    """Defaults for what is missing; a posted configuration without parallelism means all at once."""
    return {**_UPDATE_DEFAULTS, "Parallelism": 0, **posted} if posted is not None else dict(_UPDATE_DEFAULTS)


def _render_endpoint(service: Service) -> dict[str, Any]:
    endpoint_spec = service.spec.endpoint_spec
    asked = msgspec.json.decode(service.spec_json, type=dict[str, Any]).get("EndpointSpec", {}).get("Ports") or []
    ports = _given_ports(asked, service.ports)
    if not ports and not service.virtual_ips:
        return {"Spec": {}}
    spec: dict[str, Any] = {"Mode": (endpoint_spec.mode if endpoint_spec else "") or "vip"}
    endpoint: dict[str, Any] = {"Spec": spec}
    if ports:
        spec["Ports"], endpoint["Ports"] = asked, ports
    if service.virtual_ips:
        endpoint["VirtualIPs"] = [{"NetworkID": v.network_id, "Addr": v.address} for v in service.virtual_ips]
    return endpoint


def _given_ports(asked: list[dict[str, Any]], allocated: Iterable[PortConfig]) -> list[dict[str, Any]]:
    """The ports as posted, those of the routing mesh with the number that the service was given; as posted until then."""
    left, shown = list(allocated), []
    for port in asked:
        wanted = msgspec.convert(port, PortConfig)
        given = next((p for p in left if wanted in (p, msgspec.structs.replace(p, published_port=0))), None)
        if given is not None:
            left.remove(given)
        shown.append({**port, "PublishedPort": given.published_port} if given is not None and given.published_port else port)
    return shown


def _render_update_status(status: UpdateStatus) -> dict[str, str]:
    rendered = {"State": status.state}
    if status.started_at_ns:
        rendered["StartedAt"] = rfc3339(status.started_at_ns)
    if status.completed_at_ns:
        rendered["CompletedAt"] = rfc3339(status.completed_at_ns)
    return {**rendered, "Message": status.message}
