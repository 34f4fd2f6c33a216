"""What a daemon that is no manager must not carry: libraries that cost megabytes and that only managers or the CLI use."""

import subprocess
import sys

LOAD_AS_PYSWARMD_DOES = """
import sys
from pyswarm_node.main import refuse_unused_extras
refuse_unused_extras()
import pyswarm_node.running
print(*(name for name, module in sys.modules.items() if module is not None))
"""
UNWANTED = (
    "aetcd",
    "google.protobuf",
    "grpc",
    "pygments",
    "pyroute2",
    "pyswarm_cli",
    "pyswarm_manager.dispatcher",
    "pyswarm_manager.etcd",
    "pyswarm_manager.orchestrator",
    "pyswarm_manager.scheduler",
    "pyswarm_manager.store",
    "pyswarm_netplugin.audit.path_check",
    "pyswarm_netplugin.audit.report",
    "pyswarm_netplugin.secure.interfaces",
    "pyswarm_netplugin.secure.userspace_protocol",
    "pyswarm_netplugin.secure.wireguard_messages",
    "rich",
)


def test_a_worker_loads_nothing_that_only_managers_need() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD_AS_PYSWARMD_DOES], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "pyswarm_agent.agent" in loaded
    assert [name for name in loaded if any(name == u or name.startswith(f"{u}.") for u in UNWANTED)] == []
