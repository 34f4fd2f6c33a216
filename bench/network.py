"""The data plane: attach one endpoint (goal ≤ 5 ms), 5,000 peer entries (≤ 0.1 s), a view's change per sandbox (≤ 0.2 ms).

    python bench/network.py [--sandboxes 50] [--rounds 5] [--seconds 0.5]

Then traffic over what was made (`network_traffic.py`; goals: an overlay ≥ 0.98 of a VXLAN made by hand, connections to a virtual IP
≥ 0.92 of direct ones), and names (`dns.py`; ≥ 30,000 answers a second). Runs in network namespaces of its own, as root. Prints
medians, and the worst where it matters; CPU times are those of the whole process, and say more on a busy machine.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from network_traffic import measure_traffic

from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.wire import Endpoint, NetworkView, ServiceEndpoints
from pyswarm_netplugin.driver import NetworkDriver, SandboxRequest
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel import links
from pyswarm_netplugin.kernel.linux import LinuxKernel
from pyswarm_netplugin.kernel.namespaces import Namespaces, enter, remove_directory
from pyswarm_netplugin.kernel.netlink import NETLINK_ROUTE, NetlinkSocket

PEERS = 5000


class Took(NamedTuple):
    """How long something took, and how much CPU time this process needed meanwhile."""

    wall_ms: float
    cpu_ms: float


async def timed(work: Awaitable[object]) -> Took:
    """Return how long it took."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    await work
    return Took((time.perf_counter() - start_s) * 1000, (time.process_time() - start_cpu_s) * 1000)


def summary(every: Sequence[Took], parts: int = 1, unit: str = "ms") -> str:
    """Return medians and the worst, of each of so many parts."""
    wall_ms, cpu_ms = (statistics.median(values) / parts for values in zip(*every, strict=True))
    worst_ms = max(took.wall_ms for took in every) / parts
    return f"median {wall_ms:.3f} {unit} (CPU {cpu_ms:.3f}), worst {worst_ms:.3f}"


def view(version: int, backends: int, services: int, peers: int = 0) -> NetworkView:
    """Return a view; the version decides the first service's backends."""
    endpoints = {
        f"peer{number}": Endpoint(address=f"10.1.{number // 250 + 100}.{number % 250 + 1}/16", data_path_address="127.0.0.9")
        for number in range(peers)
    }
    described = {
        f"s{number}": ServiceEndpoints(
            names=(f"web{number}",),
            virtual_ip=f"10.1.{number // 250 + 1}.{number % 250 + 2}",
            backends=tuple(f"10.1.50.{n + (version if number == 0 else 1)}" for n in range(backends)),
        )
        for number in range(services)
    }
    return NetworkView(
        network_id="net", name="net", version=version, vni=4097, subnet="10.1.0.0/16", gateway="10.1.0.1",
        endpoints=endpoints, services=described,
    )  # fmt: skip


def own_host(directory: Path) -> LinuxKernel:
    """Take the calling thread into a new namespace, and return the kernel as seen from there."""
    hosts = Namespaces(directory / "hosts")
    with hosts.create("host"), NetlinkSocket(NETLINK_ROUTE) as netlink:
        netlink.send([links.link_up("lo")])
    with hosts.open("host") as descriptor:
        enter(descriptor)
    hosts.remove("host")
    hosts.close()
    remove_directory(directory / "hosts")
    return LinuxKernel("bench", directory / "run/netns")


async def measure(directory: Path, sandboxes: int) -> None:
    """Measure and print."""
    driver = NetworkDriver(
        instance_tag="bench",
        data_dir=directory / "data",
        runtime_dir=directory / "run",
        data_path_address="127.0.0.1",
        dns=FakeDNS(),
        make_kernel=lambda: own_host(directory),
    )
    await driver.start()
    try:
        await measure_driver(driver, sandboxes)
    finally:
        await driver.teardown()


async def measure_driver(driver: NetworkDriver, sandboxes: int) -> None:
    """Attach, change, detach."""
    await driver.apply_views({"net": view(1, 5, 20)})
    attaching = []
    for number in range(sandboxes):
        attachment = NetworkAttachment(network_id="net", address=f"10.1.50.{number + 1}/16")
        attaching.append(await timed(driver.attach(SandboxRequest(id=f"t{number}", hostname="t", attachments=(attachment,)))))
    print(f"attach one endpoint (20 virtual IPs): {summary(attaching)}")
    changes = [await timed(driver.apply_views({"net": view(version, 5, 20)})) for version in range(2, 22)]
    print(f"a view's change: {summary(changes, sandboxes, 'ms a sandbox')} ({sandboxes} sandboxes)")
    last = view(21, 5, 20)
    adding = await timed(driver.apply_views({"net": msgspec.structs.replace(view(22, 5, 20, PEERS), services=last.services)}))
    print(f"{PEERS} peers added: {summary([adding])}")
    print(f"{PEERS} peers removed: {summary([await timed(driver.apply_views({'net': last}))])}")
    detaching = [await timed(driver.detach(f"t{number}")) for number in range(sandboxes)]
    print(f"detach: {summary(detaching)}", flush=True)


def main() -> None:
    """Measure in a folder and a namespace that are gone afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sandboxes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5, help="how often each way of traffic is measured")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long it is measured each time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), arguments.sandboxes))
    asyncio.run(measure_traffic(arguments.rounds, arguments.seconds))
    subprocess.run([sys.executable, Path(__file__).with_name("dns.py"), "--sandboxes", "20"], check=True)


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("this needs root: it makes network namespaces")
    main()
