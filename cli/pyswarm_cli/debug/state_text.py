"""A node's network as text; pure."""

import time
from collections.abc import Iterator
from typing import Any

_NANOSECONDS = 1_000_000_000


def state_lines(state: dict[str, Any]) -> Iterator[str]:
    """Yield the lines for all of a node's network drivers."""
    if not state["Instances"]:
        yield "No network here yet: this node is in no cluster, and has no containers."
    for number, instance in enumerate(state["Instances"]):
        if number:
            yield ""
        yield from _instance(instance)


def path_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a path's check."""
    yield f"ok      both tasks are on network {found['Network']}"
    for direction in found["Directions"]:
        yield f"from {direction['From']} (node {direction['NodeID']}) to {direction['To']}:"
        for step in direction["Steps"]:
            detail = f" ({step['Detail']})" if step["Detail"] else ""
            yield f"{'ok' if step['IsOK'] else 'FAILED':<8}{step['What']}{detail}"


def _instance(instance: dict[str, Any]) -> Iterator[str]:
    if "Error" in instance:
        yield f"Network {instance['Instance']}: {instance['Error']}"
        return
    yield f"Network {instance['Instance']}: bridge {instance['Bridge']} {instance['BridgeAddress']}"
    plan = instance["Plan"]
    yield "Plan: nothing to do, all is as it should be" if not plan else "Plan:"
    yield from (f"  {line}" for line in plan)
    yield from _listed("In the way:", [*instance["Warnings"], *(f"{f['Scope']}: {f['Error']}" for f in instance["Failures"])])
    yield from _listed("Networks:", [line for each in instance["Networks"] for line in _network(each)])
    yield from _listed("Sandboxes:", [line for each in instance["Sandboxes"] for line in _sandbox(each)])
    yield from _listed("Published ports:", [_port(each) for each in instance["Ports"]])
    yield from _listed("Drift:", [_drift(each) for each in instance["Drift"]])


def _listed(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield title
        yield from (f"  {line}" for line in lines)


def _network(network: dict[str, Any]) -> Iterator[str]:
    peers, hosts = network["Peers"], sorted(set(network["Peers"].values()))
    way = f"VNI {network['VNI']}, {network['LocalAddress']} port {network['Port']}" if network["VNI"] else "on this node only"
    encrypted = ", encrypted" if network["IsEncrypted"] else ""
    sound = "" if network["IsSound"] else ", NOT IN ORDER"
    yield f"{network['Name'] or network['ID']} ({network['ID']}): {way}, MTU {network['MTU']}{encrypted}{sound}"
    if peers:
        yield f"  {len(peers)} containers elsewhere, on {', '.join(hosts)}"


def _sandbox(sandbox: dict[str, Any]) -> Iterator[str]:
    yield f"{sandbox['ID']}{'' if sandbox['IsSound'] else ': NOT IN ORDER'}"
    for name, link in sandbox["Interfaces"].items():
        where = f"network {link['Network']}" if link["Network"] else f"way out by {link['Gateway']}"
        yield f"  {name} {link['Address']}{' ' + link['IPv6Address'] if link['IPv6Address'] else ''}, {where}, MTU {link['MTU']}"
    for virtual_ip, backends in sandbox["VirtualIPs"].items():
        yield f"  {virtual_ip} -> {', '.join(backends) or 'nobody: refused'}"
    if sandbox["MeshPorts"]:
        yield f"  ports of the mesh: {', '.join(sandbox['MeshPorts'])}"


def _port(port: dict[str, Any]) -> str:
    return f"{port['Published']} -> {port['Target']}{'' if port['IsReserved'] else ', NOT RESERVED: another program has the port'}"


def _drift(drift: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(drift["At"] / _NANOSECONDS))
    end = "repaired" if drift["IsRepaired"] else f"NOT repaired{': ' + drift['Error'] if drift['Error'] else ''}"
    times = f" ({drift['Times']} times)" if drift["Times"] > 1 else ""
    return f"{at} {drift['Scope']}: {'; '.join(drift['What'])} - {end}{times}"
