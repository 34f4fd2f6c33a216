"""From pending tasks to groups that know what they ask for and where their service is. Pure."""

import msgspec

from pyswarm_common.network_options import is_encrypted
from pyswarm_common.objects import Task
from pyswarm_common.specs import ServiceSpec
from pyswarm_manager.scheduler.cluster_load import ClusterLoad
from pyswarm_manager.scheduler.demand import (
    NO_SERVICE_DEMAND,
    TemplateDemand,
    demand_of_service,
    demand_of_template,
    networks_of_template,
    service_demand,
    template_demand,
)
from pyswarm_manager.scheduler.failures import failures_to_remember, recent_failures
from pyswarm_manager.scheduler.moving import MovingTasks
from pyswarm_manager.scheduler.placing import Placed
from pyswarm_manager.scheduler.task_group import TaskGroup
from pyswarm_manager.store.tables import View


class GroupMaker:
    """Makes groups for one round; groups of one service share its counts."""

    def __init__(self, view: View, load: ClusterLoad, now_ns: int) -> None:
        self._view = view
        self._load = load
        self._now_ns = now_ns
        self._moving = view.derived(MovingTasks)
        self._counts: dict[str, dict[str, int]] = {}
        self._encrypted = {network.id for network in view.networks if is_encrypted(network.spec.options)}

    def make(self, service_id: str, task_spec_id: str) -> TaskGroup | None:
        """Return the group of the tasks of this service with this task spec; None when the spec is gone."""
        spec = self._view.task_specs.get(task_spec_id)
        if spec is None:
            return None
        service = self._view.services.get(service_id)
        group = TaskGroup(
            service_id=service_id,
            demand=self._demand(spec.template_json),
            service=service_demand(service.spec_json) if service is not None else NO_SERVICE_DEMAND,
            counts=self._counts_of(service_id),
            moving=self._moving.of_service(service_id),
        )
        failed = self._load.failures.get((service_id, task_spec_id))
        if failed is not None:
            group.failures = recent_failures(failed.values(), self._now_ns)
        return group

    def _demand(self, template_json: bytes) -> TemplateDemand:
        demand = template_demand(template_json)
        if self._encrypted.intersection(networks_of_template(template_json) if self._encrypted else ()):
            return msgspec.structs.replace(demand, is_encrypted=True)
        return demand

    def _counts_of(self, service_id: str) -> dict[str, int]:
        counts = self._counts.get(service_id)
        if counts is None:
            counts = self._counts[service_id] = dict(self._load.counts_of(self._view, service_id))
            self._moving.take_off(service_id, counts)
        return counts


def group_of_draft(view: View, draft: ServiceSpec) -> TaskGroup:
    """Return the group of a service that does not exist yet. Its networks are given by id or name."""
    demand = demand_of_template(draft.task_template)
    targets = {config.target for config in (*(draft.task_template.networks or ()), *(draft.networks or ()))}
    if any({n.id, n.name} & targets and is_encrypted(n.spec.options) for n in view.networks if targets):
        demand = msgspec.structs.replace(demand, is_encrypted=True)
    return TaskGroup(demand=demand, service=demand_of_service(draft.labels, draft.endpoint_spec))


def with_gifts(task: Task, placed: Placed, group: TaskGroup, load: ClusterLoad, now_ns: int) -> Task:
    """Return a task that is placed with what it gets on its node, and with what it is to remember."""
    ports = (*group.service.host_ports, *group.service.dynamic_host_ports)
    if placed.generic_resources or ports:
        task = msgspec.structs.replace(task, generic_resources=placed.generic_resources, host_ports=ports)
    if group.failures:
        failed = load.failures[task.service_id, task.task_spec_id].values()
        task = msgspec.structs.replace(task, recent_failures=failures_to_remember(failed, task, now_ns))
    return task
