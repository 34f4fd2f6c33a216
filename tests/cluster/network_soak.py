"""A day in the life of a cluster's networks, shortened: random work and damage, then every table must equal what the store says.

    cd tests/cluster; PYTHONPATH=../../scripts:../agent/images ../../.venv/bin/python network_soak.py --minutes 30 [--seed 7]

Each step is printed with its time, so that a failure can be followed. The manager n1 keeps its power, as it alone can answer what
the tables should be; its daemon is killed like the others'.
"""

import argparse
import contextlib
import random
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import network_truth
from lab_cluster import Cluster, build_images, running_cluster, wait_until
from network_tables import wait_until_true

FIRST_PORT, PORTS = 20000, 40
MOST_SERVICES, MOST_NETWORKS, MOST_CONTAINERS = 12, 8, 6
SETTLE_TIMEOUT_S = 60.0
_SCRIPT = "mkdir -p /www; hostname > /www/index.html; exec httpd -f -h /www"


class Soak:
    """Does random things to a cluster of at least three hosts, and knows what it has made."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._begun_s = time.monotonic()
        self._number = 0
        self.networks: list[str] = []
        self.services: dict[str, int] = {}
        """Published port, or 0, by name."""
        self.containers: dict[str, str] = {}
        """Host by name, of single containers."""
        self.gone: set[str] = set()
        """Names of what was removed."""
        self._seed = seed
        self.steps = 0

    def run(self, duration_s: float) -> None:
        """Work until the time is over, then heal everything and wait until every table is true."""
        verbs: list[tuple[int, Callable[[], None]]] = [
            (4, self.create_service),
            (4, self.scale_service),
            (2, self.update_service),
            (2, self.change_ports),
            (2, self.change_networks),
            (1, self.create_global_service),
            (2, self.remove_service),
            (3, self.create_network),
            (2, self.remove_network),
            (2, self.run_container),
            (2, self.connect_container),
            (1, self.remove_container),
            (3, self.kill_container),
            (1, self.kill_daemon),
            (1, self.cut_host),
            (1, self.cut_power),
            (1, self.damage_tables),
        ]
        for _ in range(3):
            self.create_network()
            self.create_service()
            self.steps += 2
        while time.monotonic() < self._begun_s + duration_s:
            (verb,) = self._random.choices([verb for _, verb in verbs], [weight for weight, _ in verbs])
            verb()
            self.steps += 1
            time.sleep(self._random.uniform(0.0, 0.5))
        self.settle()

    def settle(self) -> None:
        """Wait until everything runs that shall run, and every table of every host is true."""
        self._say("settles")
        for host in self._cluster.lab.hosts:
            self._cluster.wait_node(host.name, "ready", SETTLE_TIMEOUT_S)
        for name in self.services:
            wait_until(f"{name} has converged", lambda name=name: self._has_converged(name), SETTLE_TIMEOUT_S)
        wait_until_true(self._cluster, SETTLE_TIMEOUT_S)
        for name in self.services:
            for port in self._endpoint(name).get("Ports") or []:
                if port["Protocol"] == "tcp":
                    self._check_port(name, port["PublishedPort"])
        wait_until_all_true(self._cluster, self.gone, self._seed)

    def remove_containers(self) -> None:
        """Remove all single containers."""
        for name in list(self.containers):
            self._remove_container(name)

    def create_service(self) -> None:
        """A service on one or two networks, mostly with a published port."""
        if len(self.services) >= MOST_SERVICES or not self.networks:
            return
        name = self._new_name("s")
        on = self._random.sample(self.networks, min(len(self.networks), self._random.randint(1, 2)))
        port = self._random.choice(self._free_ports()) if self._random.random() < 0.7 else 0
        options = [option for network in on for option in ("--network", network)]
        options += ["--publish", f"{port}:80"] if port else []
        options += ["--publish", f"{port}:80/udp"] if port and self._random.random() < 0.3 else []
        options += ["--endpoint-mode", "dnsrr"] if not port and self._random.random() < 0.3 else []
        self._create(name, port, "--replicas", str(self._random.randint(1, 6)), *options)

    def create_global_service(self) -> None:
        """A service on every node, with a port of each."""
        free = self._free_ports()
        if len(self.services) < MOST_SERVICES and self.networks and free:
            options = ["--mode", "global", "--network", self._random.choice(self.networks)]
            port = self._random.choice(free)
            self._create(self._new_name("g"), port, *options, "--publish", f"mode=host,target=80,published={port}")

    def scale_service(self) -> None:
        """Another number of tasks, at times none."""
        scalable = sorted(name for name in self.services if name.startswith("s"))
        if scalable:
            self._try("service", "scale", "--detach", f"{self._random.choice(scalable)}={self._random.randint(0, 8)}")

    def update_service(self) -> None:
        """New tasks for old ones."""
        if self.services:
            name = self._any_service()
            # Where each task holds a port of its node, a new one finds no node beside the old one.
            order = "stop-first" if name.startswith("g") else self._random.choice(["start-first", "stop-first"])
            self._try("service", "update", "--detach", "--force", "--update-order", order, name)

    def remove_service(self) -> None:
        """One service less."""
        if self.services and self._try("service", "rm", name := self._any_service()):
            del self.services[name]
            self.gone |= {name, f"tasks.{name}"}

    def change_ports(self) -> None:
        """Another published port, or none any more."""
        published = sorted(name for name, port in self.services.items() if port and name.startswith("s"))
        if published:
            name = self._random.choice(published)
            port = self._random.choice([0, *self._free_ports()])
            options = ["--publish-rm", "80/tcp"] + (["--publish-add", f"{port}:80"] if port else [])
            if self._try("service", "update", "--detach", *options, name):
                self.services[name] = port

    def change_networks(self) -> None:
        """One network more for a service, or one less."""
        if self.services and self.networks:
            name, network = self._any_service(), self._random.choice(self.networks)
            self._try("service", "update", "--detach", self._random.choice(["--network-add", "--network-rm"]), network, name)

    def create_network(self) -> None:
        """One network more."""
        if len(self.networks) < MOST_NETWORKS:
            name = self._new_name("net")
            kinds = ["--attachable", "--attachable --ipv6", "--ipv6", "--internal", ""]
            if self._try("network", "create", "--driver", "overlay", *self._random.choice(kinds).split(), name):
                self.networks.append(name)

    def remove_network(self) -> None:
        """One network less, if nothing uses it."""
        if self.networks and self._try("network", "rm", name := self._random.choice(self.networks)):
            self.networks.remove(name)

    def run_container(self) -> None:
        """A single container on one network, if it is attachable, or on its node's bridge."""
        if self.networks and len(self.containers) < MOST_CONTAINERS:
            name, host = self._new_name("c"), self._random.choice(self._cluster.lab.hosts).name
            network = self._random.choice([*self.networks, "bridge"])
            options = ["--network", network] + ([] if network == "bridge" else ["--network-alias", "tool"])
            image = [self._cluster.image("busybox"), "sleep", "100000"]
            if self._try("run", "--detach", "--name", name, *options, *image, host=host):
                self.containers[name] = host
            else:
                self._try("rm", "--force", name, host=host)

    def connect_container(self) -> None:
        """A single container comes to a network more, or leaves one."""
        if self.containers and self.networks:
            name = self._random.choice(sorted(self.containers))
            verb, network = self._random.choice(["connect", "connect", "disconnect"]), self._random.choice(self.networks)
            self._try("network", verb, network, name, host=self.containers[name])

    def remove_container(self) -> None:
        """One single container less."""
        if self.containers:
            self._remove_container(self._random.choice(sorted(self.containers)))

    def kill_container(self) -> None:
        """A container's first process dies."""
        tasks = [t for t in self._cluster.api("/tasks") if t["Status"]["State"] == "running" and t["DesiredState"] == "running"]
        if tasks:
            task = self._random.choice(tasks)
            host = next(h for h in self._cluster.lab.hosts if self._cluster.nodes()[h.name]["ID"] == task["NodeID"])
            self._say(f"kills {task['ID']} on {host.name}")
            host.run(["kill", "-KILL", str(task["Status"]["ContainerStatus"]["PID"])], check=False)

    def kill_daemon(self) -> None:
        """A daemon dies and starts again; its containers go on."""
        host = self._random.choice(self._cluster.lab.hosts)
        self._say(f"kills the daemon of {host.name}")
        host.kill_daemon(signal.SIGKILL)
        host.start_daemon()
        wait_until("the API answers", self._answers)

    def cut_host(self) -> None:
        """A worker is cut off from all for a while."""
        host = self._random.choice(self._cluster.lab.hosts[1:])
        self._say(f"cuts {host.name} off")
        host.cut()
        try:
            time.sleep(self._random.uniform(0.5, 6.0))
        finally:
            host.heal()

    def cut_power(self) -> None:
        """A worker loses its power for a while."""
        host = self._random.choice(self._cluster.lab.hosts[1:])
        self._say(f"cuts the power of {host.name}")
        host.power_cut()
        try:
            time.sleep(self._random.uniform(0.0, 5.0))
        finally:
            host.power_on()

    def damage_tables(self) -> None:
        """Somebody takes entries and devices away from under a host."""
        host = self._random.choice(self._cluster.lab.hosts)
        overlays = [n for n in host.run(["ls", "/run/pyswarm/netns"]).stdout.split() if n.startswith("o-")]
        if overlays:
            name = self._random.choice(overlays)
            damage = self._random.choice(["bridge fdb flush dev vxlan0", "ip link del vxlan0", "ip link set vxlan0 down"])
            self._say(f"damages {name} on {host.name}: {damage}")
            host.run(["nsenter", f"--net=/run/pyswarm/netns/{name}", *damage.split()], check=False)

    def _check_port(self, name: str, port: int) -> None:
        has_tasks = bool(self._cluster.tasks(name, running=True))
        for host in self._cluster.lab.hosts:
            fetch = ["busybox", "wget", "-q", "-O", "-", f"http://{host.address}:{port}/"]
            fetched = self._cluster.lab.switch.run(fetch, check=False)
            if (fetched.returncode == 0) != has_tasks:
                raise AssertionError(f"port {port} of {name} on {host.name}: has tasks {has_tasks}, but {fetched}")

    def _has_converged(self, name: str) -> bool:
        mode = self._cluster.api(f"/services/{name}")["Spec"]["Mode"]
        replicas = mode["Replicated"]["Replicas"] if "Replicated" in mode else len(self._cluster.lab.hosts)
        tasks = self._cluster.tasks(name)
        running = [t for t in tasks if t["DesiredState"] == "running"]
        is_updated = not any(t["DesiredState"] == "ready" for t in tasks)
        return is_updated and len(running) == replicas and all(t["Status"]["State"] == "running" for t in running)

    def _answers(self) -> bool:
        try:
            return self._cluster.request("n1", "GET", "/nodes")[0] == 200
        except OSError:
            return False

    def _create(self, name: str, port: int, *options: str) -> None:
        if self._try(
            "service", "create", "--name", name, *options, "--detach", "--restart-delay", "0s", "--stop-grace-period", "1s",
            "--update-monitor", "0s", self._cluster.image("busybox"), "sh", "-c", _SCRIPT,
        ):  # fmt: skip
            self.services[name] = port

    def _remove_container(self, name: str) -> None:
        if self._try("rm", "--force", name, host=self.containers[name]):
            del self.containers[name]
            self.gone.add(name)

    def _endpoint(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._cluster.api(f"/services/{name}").get("Endpoint") or {}
        return found

    def _free_ports(self) -> list[int]:
        return sorted(set(range(FIRST_PORT, FIRST_PORT + PORTS)) - set(self.services.values()))

    def _try(self, *arguments: str, host: str = "n1") -> bool:
        ended = self._cluster.pyswarm(*arguments, host=host, check=False)
        refusal = "" if ended.returncode == 0 else f"  ✗ {ended.stderr.strip()[-200:]}"
        self._say(f"{host}: {' '.join(arguments[:12])}{refusal}")
        return ended.returncode == 0

    def _any_service(self) -> str:
        return self._random.choice(sorted(self.services))

    def _new_name(self, kind: str) -> str:
        self._number += 1
        return f"{kind}{self._number}"

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self._begun_s:7.1f} s  {what}", flush=True)


def wait_until_all_true(cluster: Cluster, gone: Collection[str] = (), seed: int = 0) -> None:
    """Wait until nothing differs from the store that `network_truth` looks at; fails with what does."""
    ports = range(FIRST_PORT, FIRST_PORT + PORTS)
    try:
        wait_until("the networks are true", lambda: not network_truth.differences(cluster, gone, ports, seed), SETTLE_TIMEOUT_S)
    except BaseException as error:
        error.add_note("\n".join(network_truth.differences(cluster, gone, ports, seed)))
        raise


@contextlib.contextmanager
def soaked_cluster() -> Iterator[Cluster]:
    """A cluster of three hosts in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder), build_images(Path(folder))) as cluster:
        yield cluster


def main() -> None:
    """Soak for the time that is asked for."""
    parser = argparse.ArgumentParser(description="Random work and damage on a cluster's networks, then a look at every table.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with soaked_cluster() as cluster:
        soak = Soak(cluster, arguments.seed)
        soak.run(arguments.minutes * 60)
        print(
            f"{soak.steps} steps, {len(soak.services)} services and {len(soak.networks)} networks at the end: every table is true"
        )


if __name__ == "__main__":
    main()
