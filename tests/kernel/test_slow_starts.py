"""Containers whose monitor hangs or cannot be kept apart: what is said, and that nothing is left."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime import ContainerStartFailed, launch
from pyswarm_agent.runtime.cgroups import Cgroups

pytestmark = pytest.mark.kernel


async def test_a_monitor_that_hangs(node: RuntimeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "START_TIMEOUT_S", 0.3)
    monitor = tmp_path / "conmon"
    monitor.write_text("#!/bin/sh\nexec sleep 1000\n")
    monitor.chmod(0o755)
    node.runtime.host = node.runtime.host._replace(conmon=monitor)
    config = node.config("true")
    await node.runtime.create(config)
    with pytest.raises(ContainerStartFailed, match=r"the OCI runtime did not create the container in 0\.3 s"):
        await node.runtime.start_container(config.id)


async def test_a_monitor_that_cannot_be_put_into_its_cgroup(node: RuntimeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []

    @contextlib.contextmanager
    def closed_entrance(_: Cgroups) -> Iterator[Callable[[int], None]]:
        def enter(pid: int) -> None:
            entered.append(pid)
            raise OSError("no entry")

        yield enter

    monkeypatch.setattr(Cgroups, "monitor_entrance", closed_entrance)
    config = node.config("true")
    await node.runtime.create(config)
    with pytest.raises(ContainerStartFailed, match="cannot start the container: no entry"):
        await node.runtime.start_container(config.id)
    assert not Path(f"/proc/{entered[0]}").exists()
