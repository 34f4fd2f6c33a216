"""Names that the API joins from several objects."""

from pyswarm_common.objects import Task
from pyswarm_manager.store.tables import View
from pyswarm_manager.task_names import full_task_name


def task_name(task: Task, view: View) -> str:
    """Return a task's name as people see it, `web.1.<id>`; a task whose service is gone has the service's id in it."""
    return full_task_name(task, view.services.get(task.service_id))
