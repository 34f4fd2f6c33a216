"""What the kernel counts for real containers."""

from collections.abc import AsyncIterator

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_agent.runtime.access.interface import ExecConfig, Figures

pytestmark = pytest.mark.kernel


@pytest.fixture
async def access(node: RuntimeNode) -> AsyncIterator[ContainerAccess]:
    access = ContainerAccess(node.runtime)
    yield access
    await access.close()


async def test_what_a_container_uses(node: RuntimeNode, access: ContainerAccess) -> None:
    container = await node.started("echo ready; sleep 1000 & sleep 1000; true", memory_bytes=2**26, pids_limit=50)
    before = await access.figures(container)
    assert before.pids == {"current": 3, "limit": 50}
    assert before.memory["limit"] == 2**26
    assert 0 < before.memory["usage"] < 2**26
    assert before.memory["stats"]["inactive_file"] >= 0
    assert before.cpu["online_cpus"] >= 1
    assert before.networks == {}
    work = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 8000000 /dev/urandom > /tmp/file"
    await access.run(container, ExecConfig(args=("sh", "-c", work)), timeout_s=20)
    after = await access.figures(container)
    assert spent_ns(after) - spent_ns(before) > 1_000_000
    assert after.cpu["system_cpu_usage"] >= before.cpu["system_cpu_usage"] > 0
    assert after.memory["usage"] - before.memory["usage"] > 4_000_000
    assert after.at_ns > before.at_ns


def spent_ns(figures: Figures) -> int:
    spent: int = figures.cpu["cpu_usage"]["total_usage"]
    return spent
