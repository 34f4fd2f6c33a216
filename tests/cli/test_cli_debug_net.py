"""`pyswarm debug net`: the truth of a node's network as text and JSON, and the way between two tasks."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pyswarm_cli.debug.state_text import path_lines, state_lines
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, NetworkView, ServiceEndpoints
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_node.api.fake_control import FakeNodeControl

Run = Callable[..., Awaitable[Result]]


class Network:
    """A network driver of the API's node, on a kernel in memory."""

    def __init__(self, folder: Path, control: FakeNodeControl) -> None:
        self.kernel = FakeKernel()
        self.watch = control.agent.network_watch
        self.driver = NetworkDriver(
            instance_tag="test",
            data_dir=folder / "data",
            runtime_dir=folder / "run",
            data_path_address="192.0.2.1",
            dns=FakeDNS(),
            make_kernel=lambda: self.kernel,
            watch=self.watch,
        )


@pytest.fixture
async def network(tmp_path: Path, control: FakeNodeControl) -> AsyncIterator[Network]:
    """One network with a task here and one elsewhere."""
    made = Network(tmp_path, control)
    await made.driver.start()
    view = NetworkView(
        network_id="net-a",
        name="app",
        version=3,
        vni=4097,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        endpoints={"far": Endpoint(address="10.0.1.9/24", data_path_address="192.0.2.2", name="web.2.far")},
        services={"s1": ServiceEndpoints(names=("web",), virtual_ip="10.0.1.2", backends=("10.0.1.9",))},
    )
    await made.driver.apply_views({"net-a": view})
    attachments = (NetworkAttachment(network_id="net-a", address="10.0.1.5/24"),)
    await made.driver.attach(SandboxRequest(id="t1", hostname="box", attachments=attachments))
    yield made
    await made.driver.close()


async def test_a_node_without_network_says_so(pyswarm: Run) -> None:
    shown = await pyswarm("debug", "net")
    assert shown.exit_code == 0
    assert "No network here yet" in shown.output


async def test_what_is_in_order_is_shown_with_an_empty_plan(pyswarm: Run, network: Network) -> None:
    shown = (await pyswarm("debug", "net")).output
    assert "Network test: bridge test-egress 172.19.0.1/16\nPlan: nothing to do, all is as it should be\n" in shown
    assert "  app (net-a): VNI 4097, 192.0.2.1 port 4789, MTU 1450\n    1 containers elsewhere, on 192.0.2.2\n" in shown
    assert "    eth0 10.0.1.5/24, network net-a, MTU 1450\n" in shown
    assert "    10.0.1.2 -> 10.0.1.9\n" in shown


async def test_drift_is_in_the_plan_and_after_its_repair_in_the_history(pyswarm: Run, network: Network) -> None:
    del network.kernel.sandboxes["t1"]
    before = (await pyswarm("debug", "net")).output
    assert "Plan:\n  sandbox t1: make namespace\n" in before
    assert "NOT IN ORDER" in before
    await network.watch.audit()
    after = (await pyswarm("debug", "net")).output
    assert "nothing to do" in after
    assert "sandbox t1: sandbox t1: make namespace" in after.partition("Drift:")[2]


async def test_scripts_get_json_without_keys(pyswarm: Run, network: Network) -> None:
    (instance,) = json.loads((await pyswarm("debug", "net", "--format", "json")).output)["Instances"]
    assert instance["Plan"] == []
    assert instance["Networks"][0]["Peers"] == {"10.0.1.9": "192.0.2.2"}
    assert "private" not in json.dumps(instance).lower()


async def test_a_path_of_tasks_that_are_not_there_is_refused(pyswarm: Run, network: Network) -> None:
    shown = await pyswarm("debug", "net", "--path", "web.1", "db.1")
    assert shown.exit_code == 1
    assert "web.1 not found" in shown.output
    both = await pyswarm("debug", "net", "--node", "vm", "--path", "a", "b")
    assert both.exit_code == 2
    assert "leave --node out" in both.output


def test_a_path_is_shown_step_by_step() -> None:
    steps: list[dict[str, Any]] = [
        {"What": "the sandbox is on the network", "IsOK": True, "Detail": "10.0.1.5/24"},
        {"What": "a packet of 1450 bytes goes to 10.0.1.6 and returns", "IsOK": False, "Detail": "no answer in 1 s"},
    ]
    found = {"Network": "app", "Directions": [{"From": "web.1", "To": "db.1", "NodeID": "n1", "Steps": steps}]}
    assert list(path_lines(found)) == [
        "ok      both tasks are on network app",
        "from web.1 (node n1) to db.1:",
        "ok      the sandbox is on the network (10.0.1.5/24)",
        "FAILED  a packet of 1450 bytes goes to 10.0.1.6 and returns (no answer in 1 s)",
    ]


def test_an_instance_that_cannot_be_read_is_named() -> None:
    state = {"Instances": [{"Instance": "a", "Error": "no such device"}, {"Instance": "b", "Error": "closed"}]}
    assert list(state_lines(state)) == ["Network a: no such device", "", "Network b: closed"]
