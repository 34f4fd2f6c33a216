"""Names that the API joins from several objects."""

from pyswarm_common.objects import Task
from pyswarm_manager.store.tables import View


def task_name(task: Task, view: View) -> str:
    """Return a task's name as people see it, `web.1.<id>`; a task whose service is gone has the service's id in it."""
    service = view.services.get(task.service_id)
    service_name = service.name if service is not None else task.service_id
    return f"{service_name}.{task.slot or task.node_id}.{task.id}"
