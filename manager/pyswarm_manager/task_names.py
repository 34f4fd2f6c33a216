"""How tasks are named: `web.1.<id>` where they have a slot, `web.<node id>.<id>` in services that have tasks by node."""

from pyswarm_common.objects import Service, Task
from pyswarm_manager.store.tables import View


def has_slot(task: Task, service: Service | None) -> bool:
    """Whether the task is one of numbered slots. Those of replicated jobs are counted from 0, all others from 1."""
    return bool(task.slot) or (service is not None and service.spec.mode_name == "replicated-job")


def full_task_name(task: Task, service: Service | None) -> str:
    """Return a task's name as people see it; a task whose service is gone has the service's id in it."""
    service_name = service.name if service is not None else task.service_id
    return f"{service_name}.{task.slot if has_slot(task, service) else task.node_id}.{task.id}"


def attachment_names(task: Task, network_id: str, view: View) -> list[str]:
    """Return the names of an attachment's container on a network, its own first; never none."""
    spec = view.task_specs.get(task.task_spec_id)
    networks = (spec.template.networks if spec is not None else None) or ()
    return next((n.aliases for n in networks if n.target == network_id and n.aliases), [task.id])
