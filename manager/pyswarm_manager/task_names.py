"""How tasks are named: `web.1.<id>` where they have a slot, `web.<node id>.<id>` in services that have tasks by node."""

from pyswarm_common.objects import Service, Task


def has_slot(task: Task, service: Service | None) -> bool:
    """Whether the task is one of numbered slots. Those of replicated jobs are counted from 0, all others from 1."""
    return bool(task.slot) or (service is not None and service.spec.mode_name == "replicated-job")


def full_task_name(task: Task, service: Service | None) -> str:
    """Return a task's name as people see it; a task whose service is gone has the service's id in it."""
    service_name = service.name if service is not None else task.service_id
    return f"{service_name}.{task.slot if has_slot(task, service) else task.node_id}.{task.id}"
