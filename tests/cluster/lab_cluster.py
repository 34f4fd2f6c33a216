"""A real cluster of netns hosts to test: short ways to run commands on it, ask its API and wait; and the registry beside it."""

import contextlib
import http.client
import itertools
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pytest
from image_builder import BuiltImage, Entry, debian_architecture, make_layer, write_docker_archive

from pyswarm_cli.lab.lab import Host, Lab

REPOSITORY = Path(__file__).resolve().parents[2]
REGISTRY_PORT = 5000
_lab_numbers = itertools.count(1)
T = TypeVar("T")
Completed: TypeAlias = subprocess.CompletedProcess[str]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float = 20.0) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def wait_until(what: str, probe: Callable[[], T | None], timeout_s: float = 30.0) -> T:
    """Return what `probe` gives once it is truthy; fails with `what` and the last value after the time-out."""
    deadline = time.monotonic() + timeout_s
    value = probe()
    while not value:
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what}; last seen: {value!r}")
        time.sleep(0.05)
        value = probe()
    return value


def wait_until_gone(what: str, probe: Callable[[], Sized], timeout_s: float = 30.0) -> None:
    """Return once `probe` gives nothing; fails with what it still gives."""
    remaining = probe()
    deadline = time.monotonic() + timeout_s
    while remaining:
        if time.monotonic() > deadline:
            pytest.fail(f"{what} not gone within {timeout_s} s: {remaining!r}")
        time.sleep(0.05)
        remaining = probe()


class Cluster:
    """The lab with pyswarm on it, and short ways to ask it things. The registry keeps its blobs in `folder`."""

    def __init__(self, lab: Lab, registry: str, folder: Path) -> None:
        self.lab = lab
        self.registry = registry
        self._folder = folder

    @property
    def manager(self) -> Host:
        """The one manager's host."""
        return self.lab.host("n1")

    def pyswarm(
        self, *arguments: str, host: str = "n1", check: bool = True, timeout_s: float = 90.0
    ) -> subprocess.CompletedProcess[str]:
        """Run the CLI on a host."""
        return self.lab.host(host).run(["pyswarm", *arguments], check=check, timeout_s=timeout_s)

    def join(self, host: str, role: str) -> None:
        """Let a host join through the first manager."""
        token = self.pyswarm("swarm", "join-token", "-q", role).stdout.strip()
        self.pyswarm("swarm", "join", "--token", token, f"{self.manager.address}:2377", host=host)

    def docker(self, *arguments: str, check: bool = True, timeout_s: float = 90.0) -> Completed:
        """Run the real docker CLI on the manager."""
        return self.manager.run(["docker", "-H", "unix:///run/pyswarm/pyswarm.sock", *arguments], check=check, timeout_s=timeout_s)

    def request(self, host: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask a host's Engine API; returns the status and the decoded JSON, None for an empty answer."""
        connection = UnixConnection(f"/proc/{self.lab.host(host).pid}/root/run/pyswarm/pyswarm.sock")
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text else None

    def api(self, path: str, method: str = "GET", body: Any = None, host: str = "n1") -> Any:
        """Ask the Engine API; returns the decoded JSON. Raises RuntimeError for an error answer."""
        status, answer = self.request(host, method, path, body)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {json.dumps(answer)}")
        return answer

    def tasks(self, service: str, *, running: bool = False) -> list[dict[str, Any]]:
        """Return the service's tasks; with `running` those that run and are wanted running."""
        filters = json.dumps({"service": [service]})
        tasks: list[dict[str, Any]] = self.api(f"/tasks?filters={filters}".replace(" ", "%20").replace('"', "%22"))
        if running:
            tasks = [t for t in tasks if t["Status"]["State"] == "running" and t["DesiredState"] == "running"]
        return tasks

    def wait_running(self, service: str, count: int, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """Wait until exactly `count` tasks run and nothing else is wanted."""

        def settled() -> list[dict[str, Any]] | None:
            tasks = self.tasks(service)
            wanted = [t for t in tasks if t["DesiredState"] in ("running", "ready")]
            running = [t for t in wanted if t["Status"]["State"] == "running"]
            return running if len(running) == count == len(wanted) else None

        return wait_until(f"{count} tasks of {service} run", settled, timeout_s)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return the nodes by host name."""
        return {n["Description"]["Hostname"]: n for n in self.api("/nodes")}

    def wait_node(self, name: str, state: str, timeout_s: float = 20.0) -> None:
        """Wait until the node has this state."""

        def has_state() -> bool:
            node = self.nodes().get(name)
            return node is not None and node["Status"]["State"] == state

        wait_until(f"node {name} is {state}", has_state, timeout_s)

    def managers(self, host: str = "n1") -> dict[str, str]:
        """Return the managers by host name with their reachability, as a host tells it; the leader's is `leader`."""
        found = {n["Description"]["Hostname"]: n.get("ManagerStatus") for n in self.api("/nodes", host=host)}
        return {name: "leader" if m.get("Leader") else m["Reachability"] for name, m in sorted(found.items()) if m}

    def wait_managers(self, *names: str, host: str = "n1", timeout_s: float = 60.0) -> str:
        """Wait until exactly these hosts are managers and all reachable, as the leader finds, too; returns the leader."""

        def settled() -> str | None:
            states = ["leader"] + ["reachable"] * (len(names) - 1)
            try:
                found = self.managers(host)
                if list(found) != sorted(names) or sorted(found.values()) != states:
                    return None
                leader = next(name for name, state in found.items() if state == "leader")
                return leader if self.managers(leader) == found else None
            except (RuntimeError, OSError):
                return None

        return wait_until(f"{names} are the managers", settled, timeout_s)

    def image(self, name: str) -> str:
        """Return the reference of one of the images in the registry."""
        return f"{self.registry}/{name}:latest"

    def archive(self, name: str) -> Path:
        """Return a `docker save` tarball of busybox under this name, which no registry has."""
        target = self._folder / f"{name}.tar"
        build = [REPOSITORY / "scripts/build-image", "busybox", target, "--tag", f"{name}:latest"]
        subprocess.run(build, check=True, capture_output=True)
        return target

    def corrupt_image(self) -> str:
        """Push an image of one layer, then flip a byte of that layer in the registry's storage; returns its reference."""
        layer = make_layer([Entry("etc/marker", b"corrupt me" * 1000)])
        archive = self._folder / "corrupt.tar"
        write_docker_archive(archive, [(BuiltImage([layer], {"Cmd": ["sh"]}, debian_architecture()), ["corrupt:latest"])])
        push_archive(self.lab, self.registry, "corrupt", archive)
        inspect = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{self.image('corrupt')}"]
        digest = json.loads(self.lab.switch.run(inspect).stdout)["layers"][0]["digest"].removeprefix("sha256:")
        blob = self._folder / "registry/docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 0xFF
        blob.write_bytes(content)
        return self.image("corrupt")


def push_archive(lab: Lab, registry: str, name: str, archive: Path) -> None:
    """Push an image tarball to the registry as `name:latest`."""
    copy = ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]
    lab.switch.run([*copy, f"docker-archive:{archive}", f"docker://{registry}/{name}:latest"])


@contextlib.contextmanager
def running_registry(lab: Lab, folder: Path, archives: dict[str, Path]) -> Iterator[str]:
    """Run a docker-registry in the lab's switch namespace and push the images to it; yields its host:port."""
    switch = lab.switch
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}}}\n"
        f"http: {{addr: '{switch.address}:{REGISTRY_PORT}'}}\n"
    )
    server = switch.popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        registry = f"{switch.address}:{REGISTRY_PORT}"
        wait_until("the registry listens", lambda: f":{REGISTRY_PORT}" in switch.run(["ss", "-ltn"]).stdout)
        for name, archive in archives.items():
            push_archive(lab, registry, name, archive)
        yield registry
    finally:
        server.kill()
        server.wait()


def build_images(folder: Path) -> dict[str, Path]:
    """Build nginx and busybox from Debian packages, as the demo does; returns the archives by name."""
    archives = {name: folder / f"{name}.tar" for name in ("nginx", "busybox")}
    for name, archive in archives.items():
        subprocess.run([REPOSITORY / "scripts/build-image", name, archive], check=True, capture_output=True)
    return archives


@contextlib.contextmanager
def running_cluster(folder: Path, archives: dict[str, Path], hosts: int = 3, managers: int = 1) -> Iterator[Cluster]:
    """Bring up a lab with a registry, managers (the first hosts) and workers joined by token, and the overlay `app`.

    Takes it down again without leftovers.
    """
    lab = Lab.create(f"t{os.getpid()}-{next(_lab_numbers)}", hosts=hosts)
    try:
        with running_registry(lab, folder, archives) as registry:
            for host in lab.hosts:
                host.start_daemon(["--insecure-registry", registry])
            cluster = Cluster(lab, registry, folder)
            manager = cluster.manager
            cluster.pyswarm("swarm", "init", "--advertise-addr", manager.address)
            for number, host in enumerate(lab.hosts[1:], start=2):
                cluster.join(host.name, "manager" if number <= managers else "worker")
            wait_until("all nodes are ready", lambda: [n["Status"]["State"] for n in cluster.api("/nodes")] == ["ready"] * hosts)
            cluster.pyswarm("network", "create", "--driver", "overlay", "app")
            yield cluster
    finally:
        lab.down()
    leftovers = lab.leftovers()
    if leftovers:
        raise AssertionError(f"the lab left behind: {leftovers}")
