"""Tasks on the networks that their node has of its own: the host's, none, and the bridge."""

import os
from pathlib import Path

import pytest
from overlay_hosts import machines, run
from runtime_harness import EVERYTHING, RuntimeNode
from task_node import task_node

from pyswarm_agent.api.container_networks import network_names, networks_of
from pyswarm_common.own_networks import id_in_swarm, id_on_node
from pyswarm_common.specs import PortConfig
from pyswarm_common.task_states import TaskState

pytestmark = pytest.mark.kernel
LOOKS = "readlink /proc/self/ns/net; ip -o link | cut -d: -f2 | cut -d@ -f1; ip route; cat /etc/hosts; echo end; exec sleep 1000"


async def test_each_has_what_its_network_gives(node: RuntimeNode, tmp_path: Path) -> None:
    with machines(tmp_path / "hosts", 1) as (machine,):
        driver = machine.driver()
        await driver.start()
        try:
            async with task_node(node, tmp_path, network=driver) as tasks:
                port = PortConfig(target_port=80, published_port=8080, publish_mode="host")
                tasks.assign("t1", LOOKS, networks=[id_in_swarm("host")], host_ports=(port,))
                tasks.assign("t2", LOOKS, networks=[id_in_swarm("none")])
                tasks.assign("t3", LOOKS, networks=[id_in_swarm("bridge")])
                seen = {}
                for task_id in ("t1", "t2", "t3"):
                    status = await tasks.until(task_id, TaskState.RUNNING)
                    assert [one.published_port for one in status.ports] == ([80] if task_id == "t1" else []), "its own port"
                    record = tasks.container(task_id)
                    async for line in node.runtime.logs(record.config.id, EVERYTHING):
                        if line.line == b"end\n":
                            break
                    seen[task_id] = await node.output(record.config.id)
                assert os.readlink("/proc/self/ns/net") in seen["t1"]
                assert Path("/etc/hosts").read_text() in seen["t1"]
                for task_id, name in (("t1", "host"), ("t2", "none")):
                    record = tasks.container(task_id)
                    assert network_names(record, None) == {name: id_on_node(name)}
                    assert networks_of(record, None)[name]["IPAddress"] == ""
                assert seen["t2"].splitlines()[1:3] == [" lo", "127.0.0.1\tlocalhost"], "no other interface, no route"
                assert " eth0" in seen["t3"].splitlines()
                assert "default via" in seen["t3"]
                assert driver.sandboxes() == {"t2", "t3"}
                for task_id in ("t1", "t2", "t3"):
                    tasks.shut_down(task_id)
                    await tasks.until(task_id, TaskState.SHUTDOWN)
                assert driver.sandboxes() == frozenset()
        finally:
            await driver.teardown()
        assert "pyswarm" not in run("ip", "netns", "exec", machine.name, "nft", "list", "ruleset")
