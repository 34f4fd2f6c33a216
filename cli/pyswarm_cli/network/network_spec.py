"""From the options of `network create` to the body of `POST /networks/create`. Pure. Raises click.UsageError.

Ranges, gateways and reserved addresses find the subnet that they are in, whatever the order of the options.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import click

from pyswarm_cli.key_values import parse_labels

Subnet: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Pool: TypeAlias = dict[str, Any]


def network_spec(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body that creates a network."""
    spec = {
        "Name": options["name"],
        "CheckDuplicate": True,
        "Driver": options["driver"],
        "Scope": options["scope"],
        "Attachable": options["attachable"],
        "Internal": options["internal"],
        "Ingress": options["ingress"],
        "EnableIPv6": options["ipv6"],
        "IPAM": {"Driver": options["ipam_driver"], "Options": parse_labels(options["ipam_opt"]), "Config": address_pools(options)},
        "Labels": parse_labels(options["label"]),
        "Options": parse_labels(options["opt"]),
    }
    if options["config_only"]:
        spec["ConfigOnly"] = True
    if options["config_from"]:
        spec["ConfigFrom"] = {"Network": options["config_from"]}
    return spec


def address_pools(options: Mapping[str, Any]) -> list[Pool]:
    """Return the subnets that are asked for, in that order, each with what lies in it."""
    pools: dict[Subnet, Pool] = {}
    for text in options["subnet"]:
        subnet = _subnet(text)
        if any(subnet.version == other.version and subnet.overlaps(other) for other in pools):
            raise click.UsageError("multiple overlapping subnet configuration is not supported")
        pools[subnet] = {"Subnet": text}
    for text in options["ip_range"]:
        _put(_pool_around(pools, _subnet(text).network_address, f"range {text}"), "IPRange", text, "ranges")
    for text in options["gateway"]:
        _put(_pool_around(pools, _address(text), f"gateway {text}"), "Gateway", text, "gateways")
    for name, text in _pairs(options["aux_address"]):
        pool = _pool_around(pools, _address(text), f"aux-address {text}")
        pool.setdefault("AuxiliaryAddresses", {})[name] = text
    return list(pools.values())


def _pool_around(pools: Mapping[Subnet, Pool], address: ipaddress.IPv4Address | ipaddress.IPv6Address, what: str) -> Pool:
    pool = next((pool for subnet, pool in pools.items() if address in subnet), None)
    if pool is None:
        raise click.UsageError(f"no matching subnet for {what}: it needs the --subnet that it is in")
    return pool


def _put(pool: Pool, member: str, text: str, plural: str) -> None:
    if member in pool:
        raise click.UsageError(f"cannot configure multiple {plural} ({text}, {pool[member]}) on the same subnet ({pool['Subnet']})")
    pool[member] = text


def _pairs(texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        name, equals, address = text.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--aux-address {text!r} is not NAME=IP, such as router=10.0.9.5")
        yield name, address


def _subnet(text: str) -> Subnet:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise click.UsageError(f"invalid subnet {text}: expected an address and a prefix length, such as 10.9.0.0/24") from None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise click.UsageError(f"invalid address {text}") from None
