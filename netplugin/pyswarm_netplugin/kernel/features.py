"""What the data plane asks of the kernel, each feature with its modules, tried before it is needed.

A kernel loads modules by itself when a table or a link asks for them, also from inside a namespace, as long as the host has
`modprobe`, the modules' files and `kernel.modprobe`. What is missing says only ENOENT or EOPNOTSUPP, so each feature is tried once,
in a network namespace that is thrown away. What fails is loaded by name, tried again, and else named with what will not work.
"""

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from pyswarm_common.errors import Unavailable
from pyswarm_common.objects import Record
from pyswarm_netplugin.kernel import conntrack, links, mesh_ports, returns, rules, tunnel_guard
from pyswarm_netplugin.kernel.namespaces import unshare
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.mesh.records import MeshBalancer, ReturnRoutes
from pyswarm_netplugin.naming import IN_TURN_PREFIX, SOURCE_HASH_PREFIX
from pyswarm_netplugin.operations import Balance, ChangeReturns, MeshChange
from pyswarm_netplugin.published_ports.records import PortForward, PublishedPort
from pyswarm_netplugin.published_ports.rules import ports_batch
from pyswarm_netplugin.state import Tunnel

MISSING = (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EINVAL, errno.ENODEV)
"""How a kernel says that it does not know something."""
_LINK, _MAC = "probe0", b"\x02\x70\0\0\0\1"
_SUBNETS = {4: "192.0.2.0/24", 6: "2001:db8::/64"}
_BACKENDS = {4: ("192.0.2.2", "192.0.2.3"), 6: ("2001:db8::2", "2001:db8::3")}
_VIRTUAL_IP = {4: "192.0.2.1", 6: "2001:db8::1"}
_MODPROBE_LIMIT_S = 10.0


class Feature(Record, frozen=True, kw_only=True):
    """Something that the kernel must be able to do. `name`: what does not work without it; `modules`: where Linux has it."""

    name: str
    modules: tuple[str, ...]
    trial: Callable[[], None]

    def sentence(self) -> str:
        """Say what is missing, what suffers, and what to do."""
        return (
            f"the kernel lacks what {self.name} need: load the modules {', '.join(self.modules)} (modprobe), "
            "or run a kernel that has them; then restart pyswarmd"
        )


def kernel_problems() -> list[str]:
    """Return the sentences of `missing_features`."""
    return [feature.sentence() for feature in missing_features()]


def explained(error: OSError, what: str) -> Exception:
    """Return the error of doing `what`, together with what the kernel lacks when that may be why."""
    problems = kernel_problems() if error.errno in MISSING else []
    return Unavailable(f"{what}: {error.strerror or error}; {'; '.join(problems)}") if problems else error


@cache
def missing_features() -> tuple[Feature, ...]:
    """Return what this machine's kernel cannot do, as found once in this process. Blocking: some tenths of a second."""
    return find_missing(FEATURES, failing, _load_modules)


def find_missing(
    features: Sequence[Feature],
    attempt: Callable[[Sequence[Feature]], list[Feature]],
    load: Callable[[Iterable[str]], None],
) -> tuple[Feature, ...]:
    """Return the features that fail even after their modules were loaded. `attempt` returns those that fail."""
    lacking = attempt(features)
    if lacking:
        load(dict.fromkeys(module for feature in lacking for module in feature.modules))
        lacking = attempt(features)
    return tuple(lacking)


def failing(features: Sequence[Feature]) -> list[Feature]:
    """Return those whose trials fail, in a namespace that is thrown away; none where no namespace may be made."""

    def fails(feature: Feature) -> bool:
        try:
            feature.trial()
        except OSError as error:
            return error.errno in MISSING
        return False

    def attempt() -> list[Feature]:
        try:
            unshare()
        except OSError:
            return []
        return [feature for feature in features if fails(feature)]

    with ThreadPoolExecutor(1, thread_name_prefix="pyswarm-trial") as executor:  # its namespace ends with the thread
        return executor.submit(attempt).result()


def _load_modules(names: Iterable[str]) -> None:
    """Load what can be loaded; what is built in, or nowhere, is no error: the next trial tells."""
    program = shutil.which("modprobe", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        return
    for name in names:
        try:
            subprocess.run([program, "-q", name], capture_output=True, timeout=_MODPROBE_LIMIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return


def _try_links() -> None:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.send([links.bridge_add(_LINK, 1500, _MAC)], tolerated=(errno.EEXIST,))
            bridge = socket.if_nametoindex(_LINK)
            netlink.send(
                [links.veth_add("probe1", bridge, "probe2", home, _MAC, 1500), links.port_static("probe1", is_isolated=True)]
            )
    finally:
        os.close(home)


def _try_tunnel() -> None:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.send([links.vxlan_add("probe3", Tunnel(vni=1, port=4789, local_address="192.0.2.1", mtu_bytes=1450), home)])
    finally:
        os.close(home)


def _load(*batches: list[bytes]) -> None:
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        for batch in batches:
            netlink.send_whole(batch)


def _try_egress(version: int = 4) -> None:
    _load(rules.host_batch("probe", _SUBNETS[version], "lo"))


def _try_ports(version: int = 4) -> None:
    port = PublishedPort(protocol="tcp", host_address={4: "0.0.0.0", 6: "::"}[version], container_port=80, host_port=8080)
    forward = PortForward(port=port, address=_BACKENDS[version][0])
    _load(ports_batch("probe_ports", [forward], tuple(_SUBNETS.values()), "lo"))


def _try_balancing(backends: int, prefix: str, version: int = 4) -> None:
    put = ((_VIRTUAL_IP[version], f"{prefix}probe", _BACKENDS[version][:backends]),)
    _load(*rules.balance_batches(Balance(is_first=version == 4, is_first_ipv6=version == 6, put=put)))


def _try_mesh() -> None:
    balancer = MeshBalancer(protocol="tcp", published_port=80, target_port=80, backends=_BACKENDS[4])
    change = MeshChange(is_first=True, put=(("probe", balancer),))
    _load(*mesh_ports.mesh_batches(change))
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        netlink.send([links.bridge_add(_LINK, 1500, _MAC)], tolerated=(errno.EEXIST,))
        netlink.send([links.address_add(socket.if_nametoindex(_LINK), "192.0.2.5/24")])
    gateways = {"192.0.2.9": "02:42:c0:00:02:09"}
    wanted = ReturnRoutes(interface=_LINK, datagram_address="192.0.2.2", gateways=gateways)
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        returns.change_returns(netlink, ChangeReturns(sandbox_id="probe", is_first=True, returns=wanted, add=tuple(gateways)))


def _try_forgetting() -> None:
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        conntrack.forget_udp(netlink, {"192.0.2.1": ()})


def _try_ipv6() -> None:
    _try_egress(6)
    _try_ports(6)
    for backends in (0, 2):
        _try_balancing(backends, IN_TURN_PREFIX, 6)


FEATURES = (
    Feature(name="all networks (bridges and veth pairs)", modules=("bridge", "veth"), trial=_try_links),
    Feature(name="overlay networks (VXLAN)", modules=("vxlan",), trial=_try_tunnel),
    Feature(
        name="containers' ways out (nf_tables with NAT)",
        modules=("nf_tables", "nft_chain_nat", "nft_ct", "nft_masq", "nft_nat"),
        trial=_try_egress,
    ),
    Feature(name="published ports (nf_tables' fib)", modules=("nft_fib_ipv4", "nft_nat"), trial=_try_ports),
    Feature(
        name="virtual IPs (nf_tables' numgen)",
        modules=("nft_chain_nat", "nft_nat", "nft_numgen"),
        trial=lambda: _try_balancing(2, IN_TURN_PREFIX),
    ),
    Feature(
        name="virtual IPs of services without running tasks (nf_tables' reject)",
        modules=("nft_reject_ipv4",),
        trial=lambda: _try_balancing(0, IN_TURN_PREFIX),
    ),
    Feature(
        name="balancing by source hash (nf_tables' hash)",
        modules=("nft_hash",),
        trial=lambda: _try_balancing(2, SOURCE_HASH_PREFIX),
    ),
    Feature(
        name="ports of the routing mesh (connection marks and zones, routing by mark)",
        modules=("nft_ct", "nft_chain_nat", "nft_nat", "nft_numgen"),
        trial=_try_mesh,
    ),
    Feature(name="UDP clients of tasks that leave (conntrack's netlink)", modules=("nf_conntrack_netlink",), trial=_try_forgetting),
    Feature(
        name="IPv6 networks (nf_tables for IPv6)",
        modules=("nft_chain_nat", "nft_reject_ipv6", "nft_fib_ipv6"),
        trial=_try_ipv6,
    ),
    Feature(
        name="overlay networks with IPv6 (nf_tables for bridges)",
        modules=("nf_tables", "nft_meta_bridge"),
        trial=lambda: tunnel_guard.guard_tunnel("lo"),
    ),
)
MODULES = tuple(dict.fromkeys(module for feature in FEATURES for module in feature.modules))
"""All modules that are needed, as far as a kernel has them as modules."""
