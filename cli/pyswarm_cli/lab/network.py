"""The lab's wiring, as text for `ip -batch` and `nft -f`: one bridge in the switch, one cable per host, cuts as nft drops.

A cut is silent, as in a network that loses packets: the host's link keeps its carrier. This module only writes text and picks
addresses; running it is `lab.py`'s job.
"""

import ipaddress
from collections.abc import Collection, Iterable

from pyswarm_cli.lab.state import SWITCH
from pyswarm_common.errors import FailedPrecondition, InvalidArgument

BRIDGE = "lab0"
HOST_LINK = "eth0"
CUTS_TABLE = "pyswarm_lab_cuts"
FIRST_HOST_OFFSET = 11
MAX_HOSTS = 200


def choose_subnet(taken: Collection[str]) -> str:
    """Return the first 10.77.N.0/24 that no other lab has."""
    used = [ipaddress.ip_network(subnet) for subnet in taken]
    for candidate in ipaddress.ip_network("10.77.0.0/16").subnets(new_prefix=24):
        if not any(candidate.overlaps(other) for other in used):
            return str(candidate)
    raise FailedPrecondition("all 256 lab subnets in 10.77.0.0/16 are taken; see `pyswarm lab ls`")


def parse_subnet(text: str, host_count: int) -> ipaddress.IPv4Network:
    """Check a subnet given by a person: IPv4, and wide enough for the hosts."""
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid subnet {text!r}: {error}") from None
    if subnet.num_addresses < FIRST_HOST_OFFSET + host_count + 1:
        raise InvalidArgument(f"subnet {text} is too small for {host_count} hosts, which start at the address .{FIRST_HOST_OFFSET}")
    return subnet


def switch_address(subnet: ipaddress.IPv4Network) -> str:
    """Return the switch's address, the subnet's first."""
    return str(subnet[1])


def host_address(subnet: ipaddress.IPv4Network, index: int) -> str:
    """Return the address of the host with this index, counted from 0."""
    return str(subnet[FIRST_HOST_OFFSET + index])


def hardware_address(address: str) -> str:
    """Return a MAC address that belongs to the IPv4 address, so that a host keeps it over power cuts."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x77, *ipaddress.IPv4Address(address).packed))


def bridge_commands(subnet: ipaddress.IPv4Network) -> str:
    """Return what makes the bridge, in the switch's namespace."""
    address = switch_address(subnet)
    return _lines(
        "link set lo up",
        f"link add {BRIDGE} address {hardware_address(address)} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
        f"address add {address}/{subnet.prefixlen} broadcast + dev {BRIDGE}",
        f"link set {BRIDGE} up",
    )


def cable_commands(host: str, address: str, init_pid: int) -> str:
    """Return what lays a cable from the bridge to a host, in the switch's namespace."""
    return _lines(
        f"link add {host} type veth peer name {HOST_LINK} address {hardware_address(address)} netns {init_pid}",
        f"link set {host} master {BRIDGE} up",
    )


def carrier_command(host: str, *, is_up: bool) -> str:
    """Return what takes a host's link its carrier, or gives it back, in the switch's namespace."""
    return _lines(f"link set {host} {'up' if is_up else 'down'}")


def host_commands(address: str, subnet: ipaddress.IPv4Network) -> str:
    """Return what brings a host's own end up, in the host's namespace."""
    return _lines(
        "link set lo up",
        f"address add {address}/{subnet.prefixlen} broadcast + dev {HOST_LINK}",
        f"link set {HOST_LINK} up",
        f"route add default via {switch_address(subnet)}",
    )


def cut_rules(cut_hosts: Iterable[str], cut_pairs: Iterable[tuple[str, str]], cut_ways: Iterable[tuple[str, str]] = ()) -> str:
    """Return the nft text that makes exactly these cuts: a host from everything, two hosts from each other, or one way from a
    host to another.
    """
    drops: dict[str, list[str]] = {"input": [], "forward": [], "output": []}
    for host in sorted(cut_hosts):
        drops["input"].append(f'iifname "{host}" drop')
        drops["output"].append(f'oifname "{host}" drop')
        drops["forward"] += [f'iifname "{host}" drop', f'oifname "{host}" drop']
    both_ways = [way for one, other in sorted(cut_pairs) for way in ((one, other), (other, one))]
    for sender, receiver in [*both_ways, *sorted(cut_ways)]:
        if sender == SWITCH:
            drops["output"].append(f'oifname "{receiver}" drop')
        elif receiver == SWITCH:
            drops["input"].append(f'iifname "{sender}" drop')
        else:
            drops["forward"].append(f'iifname "{sender}" oifname "{receiver}" drop')
    chains = "".join(_chain(hook, rules) for hook, rules in drops.items())
    return f"table bridge {CUTS_TABLE}\ndelete table bridge {CUTS_TABLE}\ntable bridge {CUTS_TABLE} {{\n{chains}}}\n"


def _chain(hook: str, rules: list[str]) -> str:
    head = f"    chain {hook} {{\n        type filter hook {hook} priority 0; policy accept;\n"
    return head + "".join(f"        {rule}\n" for rule in rules) + "    }\n"


def _lines(*commands: str) -> str:
    return "".join(command + "\n" for command in commands)
