"""What the kernels of a cluster's hosts hold of its overlays, read with Debian's own tools, beside what the API says it must be.

Read are, on every host: the overlays' namespaces, their forwarding and neighbour entries, the sandboxes, their addresses, and where
each virtual IP leads in each of them. So a stale name, address or entry anywhere is a difference.
"""

import ipaddress
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from lab_cluster import Cluster

NAMESPACES = "/run/pyswarm/netns"
MESH_SANDBOX = "ingress-gateway"
LIVING = ("assigned", "accepted", "preparing", "ready", "starting", "running")
_REFUSING = "127.0.0.11"
"""Where datagrams to a virtual IP without backends are led, to be refused."""
_BALANCER = re.compile(r"^[th](?P<virtual_ip>[\d.]+)_")


@dataclass
class HostTables:
    """One host: `peers` by overlay (address → host behind it), `addresses` by sandbox, `backends` by sandbox (VIP → addresses)."""

    peers: dict[str, dict[str, str]] = field(default_factory=dict)
    addresses: dict[str, set[str]] = field(default_factory=dict)
    backends: dict[str, dict[str, set[str]]] = field(default_factory=dict)


def observed(cluster: Cluster, host: str) -> HostTables:
    """Return what a host's kernel holds."""
    tables = HostTables()
    for name in cluster.lab.host(host).run(["ls", NAMESPACES]).stdout.split():
        kind, _, id_ = name.partition("-")
        if kind == "o":
            tables.peers[id_] = _peers(cluster, host, name)
        elif id_ != MESH_SANDBOX:
            tables.addresses[id_] = _addresses(cluster, host, name)
            tables.backends[id_] = _backends(cluster, host, name)
    return tables


def expected(cluster: Cluster, host: str) -> HostTables:
    """Return what a host must hold, by the tasks, services, networks and nodes of the API."""
    networks = {n["Id"]: n for n in cluster.api("/networks") if n["Driver"] == "overlay"}
    ingress = {network_id: cluster.api(f"/networks/{network_id}") for network_id, n in networks.items() if n["Ingress"]}
    services = cluster.api("/services")
    nodes = {n["ID"]: n for n in cluster.api("/nodes") if n["Status"]["State"] != "down"}
    names = {node_id: n["Description"]["Hostname"] for node_id, n in nodes.items()}
    asked_id = next(node_id for node_id, name in names.items() if name == "n1")
    tasks = [t for t in tasks_of(cluster) if t["Status"]["State"] in LIVING and t.get("NodeID") in nodes]
    places = [_Place(t, network, address) for t in tasks for network, address in attachments_of(t)]
    tables = HostTables()
    own = {place.network_id for place in places if names[place.node_id] == host}
    for network_id in own | ingress.keys():
        elsewhere = {p.address: p.node_id for p in places if p.network_id == network_id and names[p.node_id] != host}
        gateways = gateways_of(ingress.get(network_id, {}), asked_id)
        elsewhere |= {a: n for n, a in gateways.items() if names.get(n) not in (None, host)}
        tables.peers[network_id] = {a: cluster.lab.host(names[node_id]).address for a, node_id in elsewhere.items()}
    virtual = {n: _virtual_ips(services, n, places) for n in own - ingress.keys()}
    for task in tasks:
        if names[task["NodeID"]] == host and attachments_of(task) and not _is_borrowed(cluster, host, task):
            tables.addresses[sandbox_of(task)] = {address for _, address in attachments_of(task)}
            seen = [virtual[network_id] for network_id, _ in attachments_of(task) if network_id not in ingress]
            tables.backends[sandbox_of(task)] = {virtual_ip: backends for one in seen for virtual_ip, backends in one.items()}
    return tables


def wait_until_true(cluster: Cluster, timeout_s: float = 10.0) -> None:
    """Wait until every table of every host that has power equals what the store says; fails with the differences.

    One look takes a while: the last one begins when the time is over.
    """
    deadline_s = time.monotonic() + timeout_s
    is_last = False
    while found := differences(cluster):
        if is_last:
            pytest.fail(f"after {timeout_s} s the kernels' tables differ from the store:\n" + "\n".join(found))
        is_last = time.monotonic() >= deadline_s


def differences(cluster: Cluster) -> list[str]:
    """Return in words what differs on any host that has power."""
    found = []
    for host in cluster.lab.hosts:
        if not host.is_on:
            continue
        should, does = expected(cluster, host.name), observed(cluster, host.name)
        for table in ("peers", "addresses", "backends"):
            wanted, seen = getattr(should, table), getattr(does, table)
            found += [
                f"{host.name} {table} of {key}: should be {wanted.get(key)}, is {seen.get(key)}"
                for key in sorted({*wanted, *seen})
                if wanted.get(key) != seen.get(key)
            ]
    return found


class _Place(msgspec.Struct):
    task: dict[str, Any]
    network_id: str
    address: str

    @property
    def node_id(self) -> str:
        return str(self.task["NodeID"])

    @property
    def is_serving(self) -> bool:
        status = self.task["Status"]
        return status["State"] == self.task["DesiredState"] == "running" and not status.get("Err")


def tasks_of(cluster: Cluster) -> list[dict[str, Any]]:
    """Return all tasks, and those that stand for single containers on networks of the cluster."""
    attached = "%7B%22runtime%22:%5B%22attachment%22%5D%7D"
    return [*cluster.api("/tasks"), *cluster.api(f"/tasks?filters={attached}")]


def sandbox_of(task: Mapping[str, Any]) -> str:
    """Return the id of the sandbox of a task or single container."""
    single = task["Spec"].get("NetworkAttachmentSpec")
    return f"container-{single['ContainerID']}" if single else str(task["ID"])


def _is_borrowed(cluster: Cluster, host: str, task: Mapping[str, Any]) -> bool:
    """Whether a single container is on networks of its node too: then its sandbox is not one of the cluster's."""
    single = task["Spec"].get("NetworkAttachmentSpec")
    if not single or not cluster.lab.host(host).is_on:
        return False
    status, found = cluster.request(host, "GET", f"/containers/{single['ContainerID']}/json")
    return status == 200 and len(found["NetworkSettings"]["Networks"]) > 1


def attachments_of(task: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a task's networks with its address on each, in order."""
    found = task.get("NetworksAttachments") or []
    return [(a["Network"]["ID"], a["Addresses"][0].partition("/")[0]) for a in found if a.get("Addresses")]


def gateways_of(details: dict[str, Any], own_node_id: str) -> dict[str, str]:
    """Return the nodes' own addresses on the ingress network, by node id. Docker's name is of the node that was asked."""
    found = {key: c for key, c in details.get("Containers", {}).items() if key.startswith("ingress-sbox")}
    return {key.partition(".")[2] or own_node_id: c["IPv4Address"].partition("/")[0] for key, c in found.items()}


def _virtual_ips(services: list[dict[str, Any]], network_id: str, places: list[_Place]) -> dict[str, set[str]]:
    found = {}
    for service in services:
        for virtual_ip in (service.get("Endpoint") or {}).get("VirtualIPs") or []:
            if virtual_ip["NetworkID"] == network_id:
                own = [p for p in places if p.network_id == network_id and p.task.get("ServiceID") == service["ID"]]
                found[virtual_ip["Addr"].partition("/")[0]] = {p.address for p in own if p.is_serving}
    return found


def _inside(cluster: Cluster, host: str, namespace: str, *command: str) -> Any:
    text = cluster.lab.host(host).run(["nsenter", f"--net={NAMESPACES}/{namespace}", *command], check=False).stdout
    return json.loads(text) if text.strip() else []


def _peers(cluster: Cluster, host: str, namespace: str) -> dict[str, str]:
    forwarding = _inside(cluster, host, namespace, "bridge", "-json", "fdb", "show", "dev", "vxlan0")
    hosts = {entry["mac"]: entry["dst"] for entry in forwarding if "dst" in entry}
    # The port's own address, which may be any, stands there as permanent.
    bridged = {entry["mac"] for entry in forwarding if "master" in entry and entry.get("state") != "permanent"}
    answers = _inside(cluster, host, namespace, "ip", "-json", "-4", "neigh", "show", "dev", "vxlan0", "nud", "permanent")
    peers = {entry["dst"]: hosts.get(entry["lladdr"], "no forwarding entry") for entry in answers}
    known = {entry["lladdr"] for entry in answers}
    peers |= {f"forwarding entry {mac} without an address": hosts.get(mac, "") for mac in (set(hosts) | bridged) - known}
    return peers


def _addresses(cluster: Cluster, host: str, namespace: str) -> set[str]:
    links = _inside(cluster, host, namespace, "ip", "-json", "-4", "addr", "show")
    egress = ipaddress.IPv4Network("172.16.0.0/12")
    found = {a["local"] for link in links for a in link["addr_info"] if link["ifname"] != "lo"}
    return {address for address in found if ipaddress.IPv4Address(address) not in egress}


def _backends(cluster: Cluster, host: str, namespace: str) -> dict[str, set[str]]:
    command = ["nsenter", f"--net={NAMESPACES}/{namespace}", "nft", "list", "table", "ip", "pyswarm"]
    text = cluster.lab.host(host).run(command, check=False).stdout
    chains: dict[str, set[str]] = {}
    for chain in re.split(r"\bchain ", text)[1:]:
        match = _BALANCER.match(chain)
        if match is not None:
            body = chain.partition("{")[2]
            chains[match["virtual_ip"]] = set(re.findall(r"\d+\.\d+\.\d+\.\d+", body)) - {_REFUSING}
    return chains
