"""The story that `scripts/demo` tells: three hosts become a cluster, run a service, and lose one of them.

Each step runs real commands, shows them, and proves what it claims by asking the API; a claim that does not hold ends the demo
with exit code 1 and leaves the hosts as they are, for looking at.
"""

import argparse
import collections
import json
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from pyswarm_cli.lab.lab import Lab
from pyswarm_common.errors import PyswarmError

REPOSITORY = Path(__file__).resolve().parents[1]
LAB = "demo"
REGISTRY_PORT = 5000
ARCHIVES = REPOSITORY / ".cache" / "demo"
PACKAGES = REPOSITORY / ".cache" / "packages"
FETCH = "while :; do timeout 1 wget -q -O - http://web/ || echo no answer; sleep 0.1; done"  # wget -T crashes in busybox 1.35
T = TypeVar("T")


class ClaimFailed(Exception):
    """Something that the demo says did not happen."""


class Screen:
    """Writes the story: numbered steps with the time since the start, commands and their output indented below."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._steps = 0
        self._bold, self._dim, self._plain = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._began_s

    def step(self, title: str) -> None:
        """Begin a step."""
        self._steps += 1
        print(f"\n{self._bold}{self._steps}. {title}{self._plain} {self._dim}[{self.elapsed_s:.1f} s]{self._plain}", flush=True)

    def command(self, words: str, output: str = "") -> None:
        """Show a command as it could be typed, and what it printed."""
        print(f"   {self._dim}${self._plain} {words}", flush=True)
        self.text(output)

    def text(self, text: str) -> None:
        """Show text, indented."""
        for line in text.rstrip().splitlines():
            print(f"     {line}", flush=True)

    def proof(self, text: str) -> None:
        """Say what was just proven."""
        print(f"   {self._bold}✓{self._plain} {text}", flush=True)


class Story:
    """The cluster of the demo and the commands that it is shown with."""

    def __init__(self, lab: Lab, screen: Screen) -> None:
        self.lab = lab
        self.screen = screen
        self.registry = f"{lab.switch.address}:{REGISTRY_PORT}"

    def on(self, host: str, *command: str, shown: bool = True, quiet: bool = False) -> str:
        """Run a command on a host and show it; returns its output."""
        result = self.lab.host(host).run(command, check=False, timeout_s=120)
        if shown or result.returncode != 0:
            words = " ".join(_quoted(word) for word in command)
            self.screen.command(f"[{host}] {words}", "" if quiet else result.stdout)
        if result.returncode != 0:
            raise ClaimFailed(f"`{' '.join(command)}` on {host} failed with {result.returncode}:\n{result.stdout}{result.stderr}")
        return result.stdout

    def pyswarm(self, *arguments: str, host: str = "n1", quiet: bool = False) -> str:
        """Run the CLI on a host and show it."""
        return self.on(host, "pyswarm", *arguments, quiet=quiet)

    def api(self, path: str) -> Any:
        """Ask the manager's API, for the proofs."""
        transport = httpx.HTTPTransport(uds=str(self.lab.host("n1").socket_path))
        with httpx.Client(transport=transport, base_url="http://pyswarm", timeout=10) as client:
            return client.get(path).raise_for_status().json()

    def running(self, service: str) -> dict[str, str]:
        """Return the service's running tasks: short container id (the container's host name) to the host it runs on."""
        names = {node["ID"]: node["Description"]["Hostname"] for node in self.api("/nodes")}
        filters = urllib.parse.quote(json.dumps({"service": [service], "desired-state": ["running"]}))
        tasks = [task for task in self.api(f"/tasks?filters={filters}") if task["Status"]["State"] == "running"]
        return {task["Status"]["ContainerStatus"]["ContainerID"][:12]: names[task["NodeID"]] for task in tasks}

    def answers(self) -> list[str]:
        """Return who answered the client so far: a short container id per answer, the word "answer" where there was none."""
        output = self.on("n1", "pyswarm", "service", "logs", "client", shown=False)
        return [line.rpartition("|")[2].split()[-1] for line in output.splitlines() if line.rpartition("|")[2].strip()]


def main() -> int:
    """Tell the story, or remove it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Shows pyswarm at its job on this one machine.")
    parser.add_argument("--down", action="store_true", help="remove every trace of the demo")
    if parser.parse_args().down:
        return take_down()
    screen = Screen()
    try:
        tell(screen)
    except (ClaimFailed, PyswarmError, httpx.HTTPError, OSError, subprocess.SubprocessError) as error:
        print(f"\nThe demo failed after {screen.elapsed_s:.0f} s: {error}", file=sys.stderr)
        print(
            f"The hosts are left as they are: look with `{cli()} lab exec -n {LAB} n1 -- …` and `{cli()} lab logs -n {LAB} n1`;",
            file=sys.stderr,
        )
        print("`scripts/demo --down` removes them.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. `scripts/demo --down` removes what is there.", file=sys.stderr)
        return 130
    return 0


def take_down() -> int:
    """Remove the lab, and say what is left if anything is."""
    lab = Lab(LAB)
    lab.down()
    shutil.rmtree(ARCHIVES, ignore_errors=True)
    if left := lab.leftovers():
        print("The demo could not be removed entirely:\n  " + "\n  ".join(left), file=sys.stderr)
        return 1
    print("The demo is gone: processes, namespaces, links, mounts, cgroups and files (.venv and .cache stay for the next time).")
    return 0


def tell(screen: Screen) -> None:
    """Run all steps."""
    archives = build_images(screen)
    story = Story(bring_up_hosts(screen), screen)
    push_images(story, archives)
    form_cluster(story)
    start_web(story)
    fetch_by_name(story)
    watch_the_wire(story)
    lose_a_host(story)
    say_what_next(story)


def build_images(screen: Screen) -> dict[str, Path]:
    """Build the demo's images from Debian packages."""
    screen.step("Two container images, built from Debian packages without docker")
    ARCHIVES.mkdir(parents=True, exist_ok=True)
    archives = {name: ARCHIVES / f"{name}.tar" for name in ("nginx", "busybox")}
    for name, archive in archives.items():
        screen.command(f"scripts/build-image {name} {archive.relative_to(REPOSITORY)}")
        build = [REPOSITORY / "scripts/build-image", "--cache-dir", PACKAGES, name, archive]
        result = subprocess.run(build, capture_output=True, text=True)
        if result.returncode != 0:
            raise ClaimFailed(f"the image {name} could not be built:\n{result.stdout}{result.stderr}")
        screen.text(f"{archive.stat().st_size / 1e6:.1f} MB")
    return archives


def bring_up_hosts(screen: Screen) -> Lab:
    """Bring up three hosts with pyswarmd, in place of those of an earlier run."""
    screen.step("Three hosts: each has its own network, processes, mounts and cgroups")
    Lab(LAB).down()
    began_s = time.monotonic()
    screen.command(f"pyswarm lab up --name {LAB} --hosts 3 --daemon")
    lab = Lab.create(LAB, hosts=3, daemon=True)
    screen.text("\n".join(f"{host.name}  {host.address}  pyswarmd has pid {host.daemon_pid}" for host in lab.hosts))
    screen.text(f"switch  {lab.switch.address}  joins them, and is the outside")
    screen.proof(f"the daemons answer after {time.monotonic() - began_s:.1f} s")
    return lab


def push_images(story: Story, archives: dict[str, Path]) -> None:
    """Run a registry outside of the hosts and push the images to it."""
    story.screen.step("A registry outside of the cluster, and the images pushed to it")
    switch, share = story.lab.switch, story.lab.share
    config = share / "registry.yml"
    storage = {"filesystem": {"rootdirectory": str(share / "registry")}}
    config.write_text(
        json.dumps({"version": "0.1", "log": {"level": "warn"}, "storage": storage, "http": {"addr": story.registry}})
    )
    switch.spawn(["docker-registry", "serve", str(config)], share / "registry.log")
    story.screen.command(f"[switch] docker-registry serve {config.name}")
    wait_until("the registry listens", lambda: f":{REGISTRY_PORT}" in switch.run(["ss", "-ltn"]).stdout, 10)
    for name, archive in archives.items():
        target = f"docker://{story.registry}/{name}:latest"
        copy = ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", f"docker-archive:{archive}", target]
        story.on("switch", *copy, shown=False)
        story.screen.command(f"[switch] skopeo copy docker-archive:{archive.name} {target}")


def form_cluster(story: Story) -> None:
    """Make the first host a manager and join the others by token."""
    story.screen.step("One cluster: a manager, and two workers that join by token")
    manager = story.lab.host("n1")
    story.pyswarm("swarm", "init", "--advertise-addr", manager.address, quiet=True)
    token = story.pyswarm("swarm", "join-token", "-q", "worker").strip()
    for host in ("n2", "n3"):
        story.pyswarm("swarm", "join", "--token", token, f"{manager.address}:2377", host=host)
    ready = wait_until("three nodes are ready", lambda: [n for n in story.api("/nodes") if n["Status"]["State"] == "ready"][2:], 20)
    story.pyswarm("node", "ls")
    story.screen.proof(f"{2 + len(ready)} nodes are ready")


def start_web(story: Story) -> None:
    """Create the network and the service, and see its tasks on all hosts."""
    story.screen.step("A service: three replicas of nginx on an overlay network")
    story.pyswarm("network", "create", "--driver", "overlay", "app", quiet=True)
    began_s = time.monotonic()
    story.pyswarm(
        "service", "create", "--name", "web", "--replicas", "3", "--network", "app", "--restart-delay", "0s",
        f"{story.registry}/nginx", quiet=True,
    )  # fmt: skip
    tasks = wait_until("three tasks run", lambda: _when(story.running("web"), lambda tasks: len(tasks) == 3), 60)
    took_s = time.monotonic() - began_s
    story.pyswarm("service", "ps", "web")
    if sorted(tasks.values()) != ["n1", "n2", "n3"]:
        raise ClaimFailed(f"the tasks should be on n1, n2 and n3, but are on {sorted(tasks.values())}")
    story.screen.proof(f"one replica on each host, pulled and running after {took_s:.1f} s")


def fetch_by_name(story: Story) -> None:
    """Let a container of another service ask for http://web/ and see each replica answer."""
    story.screen.step("The name: a container of another service, on n3, fetches http://web/ again and again")
    story.pyswarm(
        "service", "create", "--name", "client", "--network", "app", "--constraint", "node.hostname==n3",
        f"{story.registry}/busybox", "sh", "-c", FETCH, quiet=True,
    )  # fmt: skip
    tasks = story.running("web")
    wait_until("every replica has answered", lambda: set(tasks) <= set(story.answers()) and len(story.answers()) >= 60, 30)
    story.screen.command("[n1] pyswarm service logs client   # counted by the replica that answered")
    show_answers(story, tasks, story.answers())
    (client_host,) = story.running("client").values()
    if client_host != "n3":
        raise ClaimFailed(f"the client should run on n3, but runs on {client_host}")
    story.screen.proof("the name reaches all three replicas, two of them on other hosts than the client's")


def watch_the_wire(story: Story) -> None:
    """Capture what passes between the hosts: the containers' traffic in VXLAN."""
    story.screen.step("The wire between the hosts: the containers' packets travel in VXLAN")
    capture = ["tcpdump", "-i", "lab0", "-nn", "-c", "8", "-l", "udp", "port", "4789"]
    result = story.lab.switch.run(["timeout", "15", *capture], check=False, timeout_s=30)
    lines = [line for line in result.stdout.splitlines() if "VXLAN" in line]
    story.screen.command(f"[switch] {' '.join(capture)}", "\n".join(lines[:4]))
    if not any(".4789:" in line for line in lines):
        raise ClaimFailed(f"no VXLAN packet was seen between the hosts:\n{result.stdout}{result.stderr}")
    story.screen.proof("UDP 4789 between the hosts' addresses")


def lose_a_host(story: Story) -> None:
    """Cut a host's power and see its task run elsewhere, and the name answer."""
    story.screen.step("A host loses its power")
    before = story.running("web")
    answers_before = len(story.answers())
    story.screen.command(f"pyswarm lab kill -n {LAB} n2")
    story.lab.host("n2").power_cut()
    cut_s = time.monotonic()
    living = {task for task, host in before.items() if host != "n2"}
    tasks = wait_until(
        "three tasks run on n1 and n3",
        lambda: _when(story.running("web"), lambda tasks: len(tasks) == 3 and "n2" not in tasks.values()),
        30,
    )
    took_s = time.monotonic() - cut_s
    (replacement,) = set(tasks) - living
    story.pyswarm("service", "ps", "web")
    story.screen.proof(f"n2's task runs again on {tasks[replacement]}, {took_s:.1f} s after the power cut")
    wait_until("the new replica answers the client", lambda: replacement in story.answers()[answers_before:], 20)
    settled = len(story.answers())
    wait_until("the name goes on answering", lambda: len(story.answers()) >= settled + 50, 30)
    lost = story.answers()[answers_before:settled].count("answer")
    story.screen.text(f"until the cluster knew, {lost} of the client's {settled - answers_before} fetches got no answer")
    story.screen.command("[n1] pyswarm service logs client   # what came after that")
    last = story.answers()[settled:]
    show_answers(story, tasks, last)
    if "answer" in last or not set(last) <= set(tasks):
        raise ClaimFailed(f"the name should lead to living replicas only; it led to {collections.Counter(last)}")
    story.screen.proof("http://web/ answers from living replicas, the new one among them")


def show_answers(story: Story, tasks: dict[str, str], answers: list[str]) -> None:
    """Show how many answers each replica gave."""
    counts = collections.Counter(answers)
    for task, host in sorted(tasks.items(), key=lambda item: item[1]):
        story.screen.text(f"{counts[task]:5d} answers from {task} on {host}")
    if missed := counts["answer"]:
        story.screen.text(f"{missed:5d} times no answer")


def say_what_next(story: Story) -> None:
    """Print what to try while the cluster is up."""
    on_manager = f"{cli()} lab exec -n {LAB} n1 --"
    suggestions = [
        (f"{cli()} lab ls", "the hosts"),
        (f"{cli()} lab start -n {LAB} n2", "power n2 on: it comes back by itself"),
        (f"{on_manager} pyswarm node ls", "the nodes"),
        (f"{on_manager} pyswarm service scale web=10", "more replicas"),
        (f"{on_manager} pyswarm service ps web", "where they run"),
        (f"{on_manager} pyswarm service logs client", "who answered the client"),
        (f"{on_manager} bash", "a shell on the manager"),
        ("scripts/demo --down", "remove every trace"),
    ]
    width = max(len(command) for command, _ in suggestions)
    print(f"\nThe demo took {story.screen.elapsed_s:.0f} s. The cluster is still up; try for example:\n")
    for command, what in suggestions:
        print(f"  {command:{width}}   {what}")


def cli() -> str:
    """Return how to call the CLI from the repository."""
    return ".venv/bin/pyswarm"


def wait_until(what: str, probe: Callable[[], T | None], timeout_s: float) -> T:
    """Return what `probe` gives once it is true; `ClaimFailed` when that takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := probe()):
        if time.monotonic() > deadline_s:
            raise ClaimFailed(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.1)
    return value


def _when(value: T, condition: Callable[[T], bool]) -> T | None:
    return value if condition(value) else None


def _quoted(word: str) -> str:
    return word if word and not set(word) & set(" ;|&<>$'\"*") else f"'{word}'"


if __name__ == "__main__":
    sys.exit(main())
