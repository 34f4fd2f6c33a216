"""Ports of a node on their way to its agent, and back in the task's status."""

from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import Cluster, Node, NodeDescription, Service, Task, TaskSpec, TaskStatus
from pyswarm_common.specs import PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import StatusReport, TaskStatusUpdate, decode_agent_message, encode
from pyswarm_manager.dispatcher.assignments import wanted_task
from pyswarm_manager.scheduler.demand import service_demand
from pyswarm_manager.scheduler.node_info import NodeInfo
from pyswarm_manager.store.memory import memory_store
from pyswarm_manager.store.transaction import Transaction

CHOSEN = PortConfig(target_port=80, published_port=8080, publish_mode="host")
DYNAMIC = PortConfig(protocol="udp", target_port=53, publish_mode="host")


async def test_an_agent_is_told_the_ports_of_its_task() -> None:
    async with memory_store(ManualClock()) as store:
        task = Task(
            id="t1",
            task_spec_id="spec",
            service_id="svc",
            node_id="n1",
            host_ports=(CHOSEN, DYNAMIC),
            status=TaskStatus(state=TaskState.ASSIGNED),
        )

        def seed(tx: Transaction) -> None:
            tx.create(Cluster(id="c"))
            tx.create(Node(id="n1", description=NodeDescription(hostname="h")))
            tx.create(TaskSpec(id="spec"))
            tx.create(Service(id="svc", name="web", task_spec_id="spec"))
            tx.create(task)

        await store.update(seed)
        wanted = wanted_task(store.view, "n1", "t1")
    assert wanted is not None
    assert wanted.host_ports == (CHOSEN, DYNAMIC)


def test_what_was_given_comes_back() -> None:
    status = TaskStatus(state=TaskState.RUNNING, ports=(CHOSEN,))
    report = StatusReport(number=1, updates=(TaskStatusUpdate(task_id="t1", status=status),))
    assert decode_agent_message(encode(report)) == report


def test_a_port_that_the_node_chooses_is_no_demand_on_it() -> None:
    spec = b'{"EndpointSpec":{"Ports":[{"TargetPort":53,"PublishMode":"host","Protocol":"udp"},{"TargetPort":80}]}}'
    demand = service_demand(spec)
    assert (demand.host_ports, demand.dynamic_host_ports) == ((), (DYNAMIC,))
    info = NodeInfo(Node(id="n1"))
    info.hold((CHOSEN, DYNAMIC), ())
    assert set(info.ports) == {("tcp", 8080)}
    info.hold((CHOSEN, DYNAMIC), (), -1)
    assert info.ports == {}
