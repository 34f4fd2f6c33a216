"""Whether two tasks of one slot may run side by side for a moment, while one takes over from the other on another node. Pure.

It matters for tasks that leave a drained node, or are moved by the rebalancer: a successor that runs first means that no replica
is missing meanwhile. (An update does what its own order says.) The label `pyswarm.move.order` decides if it is there. Otherwise a
service that is updated start-first also moves so; and any other one too, unless its tasks write to volumes or binds: those may be
the same data on both nodes, and two writers may destroy it. Published host ports and replicas per node are no obstacle, as both
count per node. Where the user chose the tasks' addresses two cannot run at once, as the new one gets its address from the old one.
"""

from pyswarm_common.network_options import ADDRESSES, MAC_ADDRESS
from pyswarm_common.objects import Service
from pyswarm_common.service_labels import MOVE_ORDER
from pyswarm_common.specs import TaskTemplate

ORDERS = ("start-first", "stop-first")
_CHOSEN = frozenset({ADDRESSES, MAC_ADDRESS})


def may_overlap(service: Service, template: TaskTemplate) -> bool:
    """Whether a successor elsewhere may run before the task is told to stop."""
    spec = service.spec
    if any(not _CHOSEN.isdisjoint(config.driver_opts or ()) for config in template.networks or ()):
        return False
    order = (spec.labels or {}).get(MOVE_ORDER)
    if order in ORDERS:
        return order == "start-first"
    if spec.update_config is not None and spec.update_config.order == "start-first":
        return True
    mounts = (template.container_spec.mounts if template.container_spec else None) or ()
    return all(mount.read_only or mount.type not in ("volume", "bind", "cluster") for mount in mounts)
