"""Opens the network driver of this node's single containers."""

from pathlib import Path

from pyswarm_agent.local_containers.network import POOL
from pyswarm_netplugin.audit.watch import NetworkWatch
from pyswarm_netplugin.dns.client import DNSClient
from pyswarm_netplugin.dns_when_needed import DNSWhenNeeded
from pyswarm_netplugin.driver import NetworkDriver
from pyswarm_netplugin.host_bridges.linux import HostBridges
from pyswarm_netplugin.kernel.linux import LinuxKernel


def local_tag(instance_tag: str) -> str:
    """Return the tag of what the driver makes in the kernel."""
    return f"{instance_tag}b"


def open_local_driver(
    *, instance_tag: str, data_dir: Path, runtime_dir: Path, dns_socket: Path, watch: NetworkWatch | None = None
) -> NetworkDriver:
    """Return the driver, not started. Its DNS runs only while a container is on a network that somebody made."""
    tag = local_tag(instance_tag)
    dns = DNSWhenNeeded(DNSClient(dns_socket, instance_tag=tag, log_path=data_dir.with_name(f"{data_dir.name}-dns.log")))
    driver = NetworkDriver(
        instance_tag=tag,
        data_dir=data_dir,
        runtime_dir=runtime_dir,
        data_path_address="127.0.0.1",
        egress_pool=POOL,
        dns=dns,
        make_kernel=lambda: LinuxKernel(tag, runtime_dir / "netns", joins=True),
        watch=watch,
    )
    dns.is_needed = driver.is_on_networks
    return driver


def host_ends(instance_tag: str, runtime_dir: Path) -> HostBridges:
    """Return what makes the host's ends of the networks that users made."""
    return HostBridges(local_tag(instance_tag), runtime_dir / "netns")
