"""Tasks on encrypted networks go to nodes that can encrypt, and nobody wonders why not elsewhere."""

from typing import Any

import msgspec
import pytest

from pyswarm_common.objects import Network, Node, NodeDescription, NodeResources, NodeStatus, Service, Task, TaskSpec, TaskStatus
from pyswarm_common.specs import ServiceSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.scheduler.decide import decide
from pyswarm_manager.scheduler.dry_run import dry_run
from pyswarm_manager.scheduler.explanation import explain
from pyswarm_manager.scheduler.verdicts import DryRun
from pyswarm_manager.store.tables import Tables

TEMPLATE: dict[str, Any] = {"ContainerSpec": {"Image": "x"}, "Networks": [{"Target": "net"}]}


def network(options: dict[str, str] | None) -> Network:
    return Network(id="net", name="app", spec_json=msgspec.json.encode({"Name": "app", "Driver": "overlay", "Options": options}))


def tables(options: dict[str, str] | None, **descriptions: NodeDescription) -> Tables:
    made = Tables()
    made.table(Network).put(network(options), 1)
    for name, description in descriptions.items():
        whole = msgspec.structs.replace(description, hostname=name, resources=NodeResources(nano_cpus=10**9))
        made.table(Node).put(Node(id=name, description=whole, status=NodeStatus(state="ready")), 1)
    return made


CANNOT = NodeDescription(encryption_problem="the kernel has no WireGuard and wireguard-go is not installed")
OLD = NodeDescription()
CAN = NodeDescription(encryption="userspace", wireguard_key="k", wireguard_port=51820)


def landing(options: dict[str, str] | None, target: str, **descriptions: NodeDescription) -> DryRun:
    template = {**TEMPLATE, "Networks": [{"Target": target}]}
    body = {"TaskTemplate": template, "Mode": {"Replicated": {"Replicas": 1}}}
    return dry_run(tables(options, **descriptions), msgspec.convert(body, ServiceSpec), 0)


@pytest.mark.parametrize("target", ["net", "app"])
@pytest.mark.parametrize("options", [{"encrypted": ""}, {"encrypted": "true"}])
def test_a_draft_lands_where_encryption_is_possible(options: dict[str, str], target: str) -> None:
    refused = landing(options, target, a=CANNOT, b=OLD)
    assert (refused.placed, refused.refusal) == (0, "no suitable node (encrypted overlays are not possible on 2 nodes)")
    placed = landing(options, target, a=CANNOT, b=OLD, c=CAN)
    assert [placement.hostname for placement in placed.placements] == ["c"]


@pytest.mark.parametrize("options", [None, {}, {"encrypted": "false"}, {"encrypted": "0"}, {"other": ""}])
def test_plain_networks_go_anywhere(options: dict[str, str] | None) -> None:
    assert landing(options, "net", a=CANNOT).placed == 1
    assert landing({"encrypted": ""}, "another", a=CANNOT).placed == 1


def test_a_task_waits_for_such_a_node_and_says_why() -> None:
    made = tables({"encrypted": ""}, a=CANNOT, b=OLD)
    template = msgspec.json.encode(TEMPLATE)
    made.table(TaskSpec).put(TaskSpec(id="spec", template_json=template), 1)
    made.table(Service).put(Service(id="web", spec_json=b"{}", task_spec_id="spec"), 1)
    task = Task(
        id="t",
        service_id="web",
        task_spec_id="spec",
        slot=1,
        status=TaskStatus(state=TaskState.PENDING),
        desired_state=TaskState.RUNNING,
    )
    made.table(Task).put(task, 1)
    (waiting,) = [item for item in decide(made, 0).updated if isinstance(item, Task)]
    assert waiting.status.error == "no suitable node (encrypted overlays are not possible on 2 nodes)"
    details = {
        verdict.detail
        for one in explain(made, task, 0).nodes
        for verdict in one.filters
        if verdict.filter == "encryption" and not verdict.passes
    }
    assert details == {
        "encrypted overlays: the kernel has no WireGuard and wireguard-go is not installed",
        "encrypted overlays: the node did not report that it can",
    }
    made.table(Node).put(Node(id="c", description=msgspec.structs.replace(CAN, hostname="c"), status=NodeStatus(state="ready")), 2)
    (placed,) = [item for item in decide(made, 0).updated if isinstance(item, Task)]
    assert placed.node_id == "c"
