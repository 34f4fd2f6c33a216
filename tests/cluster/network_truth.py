"""What `network_tables` leaves out: names, IPv6, published ports, the mesh, ways back, strays, and what nodes say of themselves.

`differences` asks the API once and each host in few commands; every line of its answer is a thing of a host that differs.
"""

import ipaddress
import json
import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeAlias

from lab_cluster import Cluster
from network_tables import LIVING, MESH_SANDBOX, NAMESPACES, attachments_of, gateways_of, sandbox_of, tasks_of
from resolver_question import ASK_RESOLVER

from pyswarm_common.ipv6 import ipv6_address_of
from pyswarm_netplugin import naming

Facts: TypeAlias = dict[str, Any]
"""What is or should be on a host, by what it is in words."""

_IPV4, _IPV6 = r"\d+\.\d+\.\d+\.\d+", r"[0-9a-f]*:[0-9a-f:]+"
_ALLOWED = re.compile(
    r"(pyswarm-lab|sleep infinity$|etcd --name=|\S*python3? (-P )?\S*(pyswarmd|-m pyswarm_netplugin\.dns\.main)\b|ps -e)"
)
_SAMPLED = 4
_ABSENT_ASKED = 16
_BETWEEN = "-----"
_FREE_PORTS = """
import socket, sys
held = []
for port in map(int, sys.argv[1:]):
    with socket.socket() as candidate:
        try:
            candidate.bind(("0.0.0.0", port))
        except OSError:
            held.append(port)
print(held)
"""


class Store:
    """One look at what the managers know."""

    def __init__(self, cluster: Cluster) -> None:
        self.services: dict[str, dict[str, Any]] = {s["ID"]: s for s in cluster.api("/services")}
        self.networks = {n["Id"]: cluster.api(f"/networks/{n['Id']}") for n in cluster.api("/networks") if n["Driver"] == "overlay"}
        self.hosts = {n["ID"]: n["Description"]["Hostname"] for n in cluster.api("/nodes")}
        self.tasks = [t for t in tasks_of(cluster) if t["Status"]["State"] in LIVING and attachments_of(t)]
        self.ingress = next((id_ for id_, n in self.networks.items() if n["Ingress"]), "")
        own = next(id_ for id_, host in self.hosts.items() if host == "n1")
        self.gateways = gateways_of(self.networks.get(self.ingress, {}), own)

    def on(self, host: str) -> list[dict[str, Any]]:
        """Return the tasks and single containers of a host."""
        return [t for t in self.tasks if self.hosts.get(t["NodeID"]) == host]

    def places(self, network_id: str, service_id: str = "") -> Iterator[tuple[dict[str, Any], str]]:
        """Yield the tasks on a network with their addresses there."""
        for task in self.tasks:
            for id_, address in attachments_of(task):
                if id_ == network_id and service_id in ("", task.get("ServiceID")):
                    yield task, address

    def backends(self, network_id: str, service_id: str) -> set[str]:
        """Return the addresses of a service's tasks that serve."""
        return {address for task, address in self.places(network_id, service_id) if _is_serving(task)}

    def twin(self, network_id: str, address: str) -> str:
        """Return an address' IPv6 twin, "" where there is none."""
        subnets = [c["Subnet"] for c in self.networks[network_id]["IPAM"]["Config"] or []]
        return next((ipv6_address_of(s, address) for s in subnets if ":" in s), "")

    def virtual_ips(self, service: Mapping[str, Any]) -> dict[str, str]:
        """Return a service's virtual IPs by network."""
        found = (service.get("Endpoint") or {}).get("VirtualIPs") or []
        return {v["NetworkID"]: v["Addr"].partition("/")[0] for v in found}

    def mesh(self) -> dict[str, tuple[int, set[str]]]:
        """Return each port of the mesh with the tasks' port and addresses."""
        found = {}
        for service in self.services.values():
            for port in (service.get("Endpoint") or {}).get("Ports") or []:
                if port["PublishMode"] == "ingress":
                    backends = self.backends(self.ingress, service["ID"])
                    found[f"{port['Protocol']}/{port['PublishedPort']}"] = (port["TargetPort"], backends)
        return found

    def names(self, network_id: str) -> dict[str, set[str]]:
        """Return what each name of a network stands for."""
        found: dict[str, set[str]] = defaultdict(set)
        for task, address in self.places(network_id):
            service = self.services.get(task.get("ServiceID", ""))
            if service is not None:
                place = task.get("Slot") or task["NodeID"]
                found[f"{service['Spec']['Name']}.{place}.{task['ID']}"] = {address}
            for network in task["Spec"].get("Networks") or [] if service is None else []:
                for alias in network.get("Aliases") or [] if network["Target"] == network_id else []:
                    found[alias].add(address)
        for service in self.services.values():
            if network_id in [n["Target"] for n in service["Spec"]["TaskTemplate"].get("Networks") or []]:
                name, virtual_ip = service["Spec"]["Name"], self.virtual_ips(service).get(network_id)
                found[f"tasks.{name}"] |= self.backends(network_id, service["ID"])
                found[name] |= {virtual_ip} if virtual_ip else self.backends(network_id, service["ID"])
        return {name: addresses for name, addresses in found.items() if addresses}


def differences(cluster: Cluster, gone: Collection[str] = (), ports: Collection[int] = (), seed: int = 0) -> list[str]:
    """Return in words what differs on any host. `gone`: names that nothing has; `ports`: TCP, free if not published."""
    store = Store(cluster)
    found = []
    for host in (h.name for h in cluster.lab.hosts if h.is_on):
        state = cluster.api("/pyswarm/network/state", host=host)["Instances"]
        found += [f"{host} {line}" for line in (*_untruths(state), *_strange_processes(cluster, host))]
        own = next(
            i for i in state if i["Bridge"].startswith(i["Instance"]) and any(s["ID"] == MESH_SANDBOX for s in i["Sandboxes"])
        )
        wanted = {**_wanted(store, host, own), **_wanted_links(store, host, state, own)}
        wanted["TCP ports held"] = {port for protocol, port, *_ in wanted["translations"] if protocol == "tcp" and port in ports}
        seen = _seen(cluster, host, own, wanted)
        seen["TCP ports held"] = _held(cluster, host, ports)
        keys = sorted(wanted.keys() | seen.keys())
        found += [f"{host} {k}: should be {wanted.get(k)}, is {seen.get(k)}" for k in keys if wanted.get(k) != seen.get(k)]
        chosen = random.Random(seed)
        sampled = chosen.sample(store.on(host), min(_SAMPLED, len(store.on(host))))
        for task in sampled:
            found += [f"{host} names in {sandbox_of(task)}: {line}" for line in _wrong_names(cluster, store, host, task, gone)]
    return found


def _wanted(store: Store, host: str, own: Mapping[str, Any]) -> Facts:
    egress = {s["ID"]: address for s in own["Sandboxes"] if (address := _egress_of(s))}
    mesh = store.mesh()
    facts: Facts = {"ports of the mesh": {port: v for port, v in mesh.items() if v[1]}}
    facts["translations"] = {(p, int(n), egress[MESH_SANDBOX], int(n)) for p, _, n in (port.partition("/") for port in mesh)}
    for task in store.on(host):
        sandbox = sandbox_of(task)
        for port in (task["Status"].get("PortStatus") or {}).get("Ports") or []:
            if port["PublishMode"] == "host":
                facts["translations"].add((port["Protocol"], port["PublishedPort"], egress.get(sandbox), port["TargetPort"]))
        if sandbox not in {s["ID"] for s in own["Sandboxes"]}:
            continue
        placed = attachments_of(task)
        facts[f"IPv6 of {sandbox}"] = {twin for n, a in placed if (twin := store.twin(n, a))}
        facts[f"IPv6 balancing of {sandbox}"] = {
            store.twin(n, v): {store.twin(n, a) for a in store.backends(n, s["ID"])}
            for n, _ in placed
            for s in store.services.values()
            if (v := store.virtual_ips(s).get(n)) and store.twin(n, v)
        }
        returns = set(store.gateways.values()) if store.ingress in dict(placed) else set()
        facts[f"ways back of {sandbox}"] = facts[f"gateways of {sandbox}"] = returns
    return facts


def _wanted_links(store: Store, host: str, state: list[dict[str, Any]], own: Mapping[str, Any]) -> Facts:
    here = store.on(host)
    on: dict[str, set[str]] = {store.ingress: {MESH_SANDBOX}} if store.ingress else {}
    trunked = {n["ID"] for i in state if i is not own for s in i["Sandboxes"] for n in _networks_of(s)}
    for task in here:
        for network_id, _ in attachments_of(task):
            on.setdefault(network_id, set()).add(sandbox_of(task))
    mine = {s["ID"] for s in own["Sandboxes"]}
    facts: Facts = {}
    for network_id, sandboxes in on.items():
        ports = {naming.overlay_port(s, network_id) for s in sandboxes & mine}
        facts[f"links of {network_id}"] = {"lo", "br0", "vxlan0", *ports, *({"trunk0"} if network_id in trunked else ())}
        addresses = [a for t, a in store.places(network_id) if store.hosts.get(t["NodeID"]) != host]
        facts[f"IPv6 peers on {network_id}"] = {twin for a in addresses if (twin := store.twin(network_id, a))}
    links = {"lo", "eth0"}
    for instance in state:
        tag = instance["Instance"]
        links |= {naming.egress_bridge(tag)} | {naming.egress_port(tag, s["ID"]) for s in instance["Sandboxes"] if _egress_of(s)}
    facts["links"] = links
    facts["namespaces"] = {*(f"o-{n}" for n in on), *(f"s-{s}" for s in mine)}
    return facts


def _seen(cluster: Cluster, host: str, own: Mapping[str, Any], wanted: Facts) -> Facts:
    tag = own["Instance"]
    facts: Facts = {"translations": _translations(cluster, host, tag), "ports of the mesh": _mesh(cluster, host)}
    links = {link["ifname"] for link in _json(cluster, host, "", "ip -json link show") if link}
    facts["links"] = links | {bridge for bridge in wanted["links"] if bridge.endswith("-egress")}
    mounted = cluster.lab.host(host).run(["cat", "/proc/mounts"]).stdout
    facts["namespaces"] = set(re.findall(rf" {NAMESPACES}/(\S+) nsfs", mounted))
    for name in facts["namespaces"]:
        kind, _, id_ = name.partition("-")
        if kind == "o":
            present, known = _texts(cluster, host, name, "ip -json link show", "ip -json -6 neigh show dev vxlan0 nud permanent")
            facts[f"links of {id_}"] = {_link_shown(link) for link in json.loads(present or "[]")}
            facts[f"IPv6 peers on {id_}"] = {n["dst"] for n in json.loads(known or "[]")}
        elif id_ != MESH_SANDBOX:
            facts |= _seen_sandbox(cluster, host, name, id_)
    return facts


def _link_shown(link: dict[str, Any]) -> str:
    """Return a link's name; one that is down (but for the loopback) as what nothing wants."""
    name = str(link["ifname"])
    return name if name == "lo" or "UP" in link["flags"] else f"{name}, which is down"


def _seen_sandbox(cluster: Cluster, host: str, namespace: str, sandbox: str) -> Facts:
    addresses, rules, returns, balancing = _texts(
        cluster, host, namespace, "ip -json -6 addr show scope global", "ip -json rule show",
        "nft list map ip pyswarm_returns gateways", "nft list table ip6 pyswarm",
    )  # fmt: skip
    found = {a["local"] for link in json.loads(addresses or "[]") for a in link.get("addr_info", ()) if "local" in a}
    out = {a for a in found if int(ipaddress.IPv6Address(a)) & 0xFFF00000 == 0xAC100000}
    marks = {str(ipaddress.IPv4Address(int(r["fwmark"], 16))) for r in json.loads(rules or "[]") if int(r.get("fwmark", "0"), 16)}
    return {
        f"IPv6 of {sandbox}": found - out,
        f"IPv6 balancing of {sandbox}": _balancing(balancing),
        f"ways back of {sandbox}": marks,
        f"gateways of {sandbox}": {str(ipaddress.IPv4Address(int(m, 16))) for m in re.findall(r": (0x[0-9a-f]{8})", returns)},
    }


def _translations(cluster: Cluster, host: str, tag: str) -> set[tuple[str, int, str, int]]:
    text = _text(cluster, host, "", f"nft list table ip pyswarm_{tag}_ports")
    rules = re.findall(rf"(tcp|udp|sctp) dport (\d+) dnat to ({_IPV4}):(\d+)", text)
    return {(p, int(n), a, int(t)) if rules.count((p, n, a, t)) == 2 else (f"once {p}", int(n), a, int(t)) for p, n, a, t in rules}


def _mesh(cluster: Cluster, host: str) -> dict[str, tuple[int, set[str]]]:
    text = _text(cluster, host, f"s-{MESH_SANDBOX}", "nft list table ip pyswarm_mesh")
    chains = {body.split()[0]: body for body in re.split(r"\bchain ", text)[1:]}
    found = {}
    for protocol, number, chain in re.findall(r"(tcp|udp|sctp) \. (\d+) : goto (\w+)", text):
        target = re.search(rf"(?:\}}|{_IPV4}):(\d+)", chains[chain])
        found[f"{protocol}/{number}"] = (int(target[1]) if target else 0, set(re.findall(_IPV4, chains[chain])))
    used = {f"{p}/{n}" for p, n in re.findall(r"^(tcp|udp|sctp)_(\d+)_", "\n".join(chains), re.MULTILINE)}
    return found | {f"chain of {port} without a port": (0, set()) for port in used - found.keys()}


def _balancing(text: str) -> dict[str, set[str]]:
    chains = {body.split()[0]: body.partition("{")[2] for body in re.split(r"\bchain ", text)[1:]}
    elements = dict(re.findall(rf"({_IPV6}) : goto (\w+)", text))
    found = {v: {a for a in re.findall(_IPV6, chains[chain]) if a != "::1"} for v, chain in elements.items()}
    balancers = {name for name in chains if name[0] in "th" and name.count("_") > 1}
    return found | {f"chain {name} that nothing leads to": set() for name in balancers - set(elements.values())}


def _untruths(state: list[dict[str, Any]]) -> Iterator[str]:
    for instance in state:
        tag = instance["Instance"]
        yield from (f"plans in {tag}: {line}" for line in (*instance["Plan"], *instance["Failures"], *instance["Warnings"]))
        parts = (*instance["Networks"], *instance["Sandboxes"])
        yield from (f"{tag}: {part['ID']} is not in order" for part in parts if not part["IsSound"])
        yield from (f"{tag}: {port['Published']} is not reserved" for port in instance["Ports"] if not port["IsReserved"])
        yield from (f"{tag}: not repaired: {drift}" for drift in instance["Drift"] if not drift["IsRepaired"])


def _strange_processes(cluster: Cluster, host: str) -> Iterator[str]:
    running = {c["Id"] for c in cluster.api("/containers/json", host=host)}
    rows = [
        r.split(None, 3)
        for r in cluster.lab.host(host).run(["ps", "-eo", "pid,ppid,stat,args", "--no-headers"]).stdout.splitlines()
    ]
    conmons = {r[0]: r[3].partition("--cid ")[2].split()[0] for r in rows if "conmon" in r[3] and "--cid " in r[3]}
    yield from (f"conmon {pid} of {id_}, which does not run" for pid, id_ in conmons.items() if id_ not in running)
    yield from (f"container {id_} runs without conmon" for id_ in running - set(conmons.values()))
    ours = set(conmons)
    for pid, parent, status, arguments in sorted(rows, key=lambda r: int(r[0])):
        if parent in ours:
            ours.add(pid)
        if pid not in ours and not _ALLOWED.match(arguments):
            yield f"process {pid} of {parent} that nothing explains ({status}): {arguments[:120]}"
    resolvers = [r[3] for r in rows if "pyswarm_netplugin.dns.main" in r[3]]
    yield from (f"{resolvers.count(r)} times {r}" for r in set(resolvers) if resolvers.count(r) > 1)


def _wrong_names(cluster: Cluster, store: Store, host: str, task: Mapping[str, Any], gone: Collection[str]) -> Iterator[str]:
    sandbox = sandbox_of(task)
    directory = NAMESPACES if f"s-{sandbox}" in cluster.lab.host(host).run(["ls", NAMESPACES]).stdout.split() else ""
    if not directory:
        return
    wanted: dict[str, list[str]] = {}
    for network_id, _ in attachments_of(task):
        if network_id != store.ingress:
            for name, addresses in store.names(network_id).items():
                twins = [twin for a in addresses if (twin := store.twin(network_id, a))]
                wanted.setdefault(name, sorted([*addresses, *twins]))
    elsewhere = {n for id_ in store.networks for n in store.names(id_)} - wanted.keys()
    absent = sorted({*elsewhere, *gone} - wanted.keys(), key=lambda name: ("." in name, naming.digest(name, sandbox)))
    names = [*wanted, *absent[:_ABSENT_ASKED], *absent[-_ABSENT_ASKED // 4 :]]
    command = ["nsenter", f"--net={directory}/s-{sandbox}", "python3", "-c", ASK_RESOLVER, *names]
    answers: dict[str, Any] = json.loads(cluster.lab.host(host).run(command).stdout)
    for name, answer in answers.items():
        # Names with a dot may be of the world outside, and nobody answers for that in a lab.
        expected = wanted.get(name, "SERVFAIL" if "." in name else "NXDOMAIN")
        if answer != expected:
            yield f"{name} should be {expected}, is {answer}"


def _held(cluster: Cluster, host: str, ports: Collection[int]) -> set[int]:
    text = cluster.lab.host(host).run(["python3", "-c", _FREE_PORTS, *map(str, ports)]).stdout
    return set(json.loads(text))


def _is_serving(task: Mapping[str, Any]) -> bool:
    status = task["Status"]
    return bool(status["State"] == task["DesiredState"] == "running" and not status.get("Err"))


def _egress_of(sandbox: Mapping[str, Any]) -> str:
    return next((i["Address"].partition("/")[0] for i in sandbox["Interfaces"].values() if i["Gateway"] and not i["Network"]), "")


def _networks_of(sandbox: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    yield from ({"ID": i["Network"]} for i in sandbox["Interfaces"].values() if i["Network"])


def _text(cluster: Cluster, host: str, namespace: str, command: str) -> str:
    enter = ["nsenter", f"--net={NAMESPACES}/{namespace}"] if namespace else []
    return cluster.lab.host(host).run([*enter, *command.split()], check=False).stdout


def _texts(cluster: Cluster, host: str, namespace: str, *commands: str) -> list[str]:
    """Run all commands at once, as each start costs time; what fails says nothing."""
    script = f"; echo {_BETWEEN}; ".join(f"{command} 2>/dev/null" for command in commands)
    enter = ["nsenter", f"--net={NAMESPACES}/{namespace}"]
    return cluster.lab.host(host).run([*enter, "sh", "-c", script], check=False).stdout.split(f"{_BETWEEN}\n")


def _json(cluster: Cluster, host: str, namespace: str, command: str) -> Any:
    return json.loads(_text(cluster, host, namespace, command) or "[]")
