"""Whether a task is what its service asks for now, or is to be renewed. Pure."""

from functools import lru_cache
from typing import Any

import msgspec

from pyswarm_common.objects import Service, Task
from pyswarm_common.specs import decode_task_template
from pyswarm_manager.orchestrator.suitability import Suitability
from pyswarm_manager.store.tables import View


def is_outdated(view: View, service: Service, task: Task) -> bool:
    """Whether the task was made from another task spec than the service has now, and has to be renewed for it.

    As in Swarm it has not when only the placement constraints changed and its node satisfies the new ones. (Templates that are
    wholly the same are two task specs where something else that tasks are made from changed, such as ports published on hosts.)
    It has when it lacks the address by which the routing mesh reaches it, or has one without need.
    """
    if task.task_spec_id == service.task_spec_id:
        return False
    own, wanted = view.task_specs.get(task.task_spec_id), view.task_specs.get(service.task_spec_id)
    if own is None or wanted is None:
        return True
    node = view.nodes.get(task.node_id)
    if node is None or own.template_json == wanted.template_json:
        return True
    if _without_constraints(own.template_json) != _without_constraints(wanted.template_json):
        return True
    if _is_on_ingress(view, task) != service.spec.publishes_in_mesh:
        return True
    return not _suitability(wanted.template_json).suits(node)


def _is_on_ingress(view: View, task: Task) -> bool:
    networks = (view.networks.get(attachment.network_id) for attachment in task.attachments)
    return any(network is not None and network.spec.ingress for network in networks)


@lru_cache(maxsize=1024)
def _without_constraints(template_json: bytes) -> dict[str, Any]:
    template = msgspec.json.decode(template_json, type=dict[str, Any])
    placement = {key: value for key, value in (template.get("Placement") or {}).items() if key != "Constraints" and value}
    return {**template, "Placement": placement}


@lru_cache(maxsize=1024)
def _suitability(template_json: bytes) -> Suitability:
    return Suitability(decode_task_template(template_json))
