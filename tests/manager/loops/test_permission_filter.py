"""The scheduler passes nodes over whose operators do not allow what a container wants of its machine."""

from typing import Any

import msgspec
import pytest

from pyswarm_common.objects import Node, NodeDescription, NodePermissions, NodeResources, NodeStatus
from pyswarm_common.specs import ServiceSpec, TaskTemplate
from pyswarm_manager.scheduler.demand import demand_of_template, template_demand
from pyswarm_manager.scheduler.dry_run import dry_run
from pyswarm_manager.scheduler.filters import FILTERS
from pyswarm_manager.scheduler.task_group import TaskGroup
from pyswarm_manager.scheduler.verdicts import DryRun
from pyswarm_manager.store.tables import Tables

EVERYTHING = NodePermissions(allows_privileged=True, devices=("/dev/*",), cdi_devices=("*",))


def tables(**permissions: NodePermissions) -> Tables:
    made = Tables()
    for name, allowed in permissions.items():
        description = NodeDescription(hostname=name, resources=NodeResources(nano_cpus=10**9), permissions=allowed)
        made.table(Node).put(Node(id=name, description=description, status=NodeStatus(state="ready")), 1)
    return made


def landing(labels: dict[str, str], **permissions: NodePermissions) -> DryRun:
    body: dict[str, Any] = {"TaskTemplate": {"ContainerSpec": {"Labels": labels}}, "Mode": {"Replicated": {"Replicas": 1}}}
    return dry_run(tables(**permissions), msgspec.convert(body, ServiceSpec), 0)


@pytest.mark.parametrize(
    ("labels", "partial", "what"),
    [
        ({"pyswarm.privileged": "true"}, NodePermissions(devices=("*",)), "privileged containers"),
        ({"pyswarm.devices": "/dev/kvm"}, NodePermissions(devices=("/dev/dri/*",)), "these devices"),
        (
            {"pyswarm.cdi": "v.com/gpu=1"},
            NodePermissions(cdi_devices=("v.com/gpu=0",)),
            "these CDI devices",
        ),
    ],
)
def test_nodes_that_do_not_allow_it(labels: dict[str, str], partial: NodePermissions, what: str) -> None:
    refused = landing(labels, a=NodePermissions(), b=partial)
    assert (refused.placed, refused.refusal) == (0, f"no suitable node ({what} are not allowed on 2 nodes)")
    placed = landing(labels, a=NodePermissions(), b=partial, c=EVERYTHING)
    assert [placement.hostname for placement in placed.placements] == ["c"]


def test_verdicts_say_how_it_would_be_allowed() -> None:
    labels = {"pyswarm.privileged": "1", "pyswarm.devices": "/dev/a,/dev/b"}
    (node,) = landing(labels, a=NodePermissions(devices=("/dev/a",))).nodes
    assert {verdict.filter: verdict.detail for verdict in node.filters if not verdict.passes} == {
        "privileged": "privileged containers not allowed (pyswarmd --allow-privileged)",
        "devices": "device /dev/b not allowed (pyswarmd --allow-device /dev/b)",
    }


def test_filters_apply_only_where_something_is_asked() -> None:
    names = {one.name for one in FILTERS if one.applies(TaskGroup(demand=demand_of_template(TaskTemplate())))}
    assert names == {"ready"}


def test_a_stored_template_asks_for_the_same() -> None:
    body = {"ContainerSpec": {"Image": "x", "Labels": {"pyswarm.cdi": "v.com/gpu=1"}}}
    stored = template_demand(msgspec.json.encode(body))
    assert stored == demand_of_template(msgspec.convert(body, TaskTemplate))
    assert stored.access.cdi_devices == ("v.com/gpu=1",)
    broken = msgspec.json.encode({"ContainerSpec": {"Labels": {"pyswarm.cdi": "rubbish"}}})
    assert template_demand(broken).access.cdi_devices == ()
