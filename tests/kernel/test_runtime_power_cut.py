"""The power cut for real: a lab host loses every process and mount at once, its disk stays."""

import os
import sys
from pathlib import Path

import msgspec
import pytest
from runtime_harness import make_layer

from pyswarm_agent.runtime import ContainerConfig
from pyswarm_cli.lab.host import Host
from pyswarm_cli.lab.lab import Lab
from pyswarm_common.ids import new_container_id

pytestmark = pytest.mark.kernel

DAEMON = Path(__file__).with_name("runtime_daemon.py")
SURVEY = """
import asyncio
from pathlib import Path
import msgspec
from pyswarm_agent.runtime import ContainerRuntime
from pyswarm_common.clock import SystemClock

async def main():
    places = {"data_dir": Path("/var/lib/pyswarm/data"), "runtime_dir": Path("/run/pyswarm")}
    runtime = ContainerRuntime(**places, instance_tag="lab", clock=SystemClock())
    await runtime.start()
    for record in runtime.list():
        status = await runtime.wait(record.config.id)
        print(record.config.name, status.exit_code, status.error)
        await runtime.remove(record.config.id)
    await runtime.close()
    print([str(path) for path in Path("/var/lib/pyswarm/data/containers").iterdir()])

asyncio.run(main())
"""


def run_daemon(host: Host, configs: list[ContainerConfig]) -> None:
    """Start the containers in the host; return when all run."""
    arguments = ["/var/lib/pyswarm/data", "/run/pyswarm", "lab", msgspec.json.encode(configs).decode()]
    daemon = host.popen([sys.executable, str(DAEMON), *arguments])
    assert daemon.stdout is not None
    missing = {config.id for config in configs}
    while missing:
        line = daemon.stdout.readline()
        assert line, "the daemon ended"
        missing.discard(line.strip())
    host.power_cut()
    daemon.communicate()


def test_containers_of_a_host_that_lost_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSWARM_LAB_DIR", str(tmp_path / "labs"))
    with Lab.create(f"p{os.getpid()}", hosts=1) as lab:
        (host,) = lab.hosts
        make_layer(host.disk / "layer")
        settings = {"args": ("sh", "-c", "sleep 1000"), "env": ("PATH=/bin",), "layer_paths": ("/var/lib/pyswarm/layer",)}
        run_daemon(host, [ContainerConfig(id=new_container_id(), name=name, **settings) for name in ("a", "b")])
        host.power_on()
        output = host.run([sys.executable, "-c", SURVEY]).stdout
        assert [line for line in output.splitlines() if "warning" not in line] == [
            "a 255 the node was restarted",
            "b 255 the node was restarted",
            "[]",
        ]
    assert lab.leftovers() == []
