"""Powering hosts on and off: starts the boot program for several hosts at once, lays their cables, kills them.

It works on the `LabState` that its caller holds locked, and leaves saving it to the caller.
"""

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from pyswarm_cli.lab import boot, cgroups, network
from pyswarm_cli.lab.state import SWITCH, HostState, LabState, ProcessIdentity
from pyswarm_common.errors import FailedPrecondition, PyswarmError

DISK_TARGET = "/var/lib/pyswarm"
_DEATH_PATIENCE_S = 10.0
_POLL_S = 0.002


def label(lab: str, host: str) -> str:
    """Return the mark that a host's first process carries in its environment."""
    return f"{lab}/{host}"


def power_on(directory: Path, state: LabState, names: Iterable[str]) -> None:
    """Boot these hosts together (the switch first among them, if it is one) and plug them in."""
    booting = [(state.hosts[name], _start_boot(directory, state, state.hosts[name])) for name in names]
    failures = [failure for host, process in booting if (failure := _finish_boot(host, process))]
    if failures:
        raise PyswarmError("; ".join(failures))
    subnet = ipaddress.IPv4Network(state.subnet)
    switch = _first_process(state.hosts[SWITCH])
    wiring = ""
    for host, _ in booting:
        is_switch = host.name == SWITCH
        wiring += (
            network.bridge_commands(subnet) if is_switch else network.cable_commands(host.name, host.address, _first_process(host))
        )
    ip_batch(switch, wiring)
    for host, _ in booting:
        if host.name != SWITCH:
            ip_batch(_first_process(host), network.host_commands(host.address, subnet))


def power_off(state: LabState, host: HostState) -> None:
    """Cut a host's power: everything in it dies at once. Only its disk remains.

    Its cable goes first: a kernel without power says no goodbye for the connections of the processes that died.
    """
    switch = state.hosts[SWITCH]
    if host is not switch and switch.is_on:
        subprocess.run(nsenter_net(_first_process(switch), ["ip", "link", "delete", host.name]), capture_output=True, check=False)
    if host.init is not None:
        with contextlib.suppress(ProcessLookupError):
            if host.init.is_running:
                os.kill(host.init.pid, signal.SIGKILL)
        _wait_until_dead(host.init)
    host.init = host.daemon = host.net_namespace = None
    cgroups.remove_group(state.name, host.name)


def apply_cuts(state: LabState) -> None:
    """Make the switch drop what the state says is cut, and nothing else."""
    rules = network.cut_rules(state.cut_hosts, state.cut_pairs, state.cut_ways)
    _run_with_input(nsenter_net(_first_process(state.hosts[SWITCH]), ["nft", "-f", "-"]), rules)


def set_carrier(state: LabState, host: str, *, is_up: bool) -> None:
    """Pull a host's cable, or plug it in again."""
    ip_batch(_first_process(state.hosts[SWITCH]), network.carrier_command(host, is_up=is_up))


def ip_batch(pid: int, commands: str) -> None:
    """Run `ip` commands in the network namespace of a process."""
    _run_with_input(nsenter_net(pid, ["ip", "-batch", "-"]), commands)


def nsenter_net(pid: int, command: list[str]) -> list[str]:
    """Return the command that runs `command` of the machine in the network namespace of a process."""
    return ["nsenter", "--target", str(pid), "--net", *command]


def write_etc(directory: Path, state: LabState) -> None:
    """Write the files that each host sees in /etc."""
    subnet = ipaddress.IPv4Network(state.subnet)
    names = "".join(f"{host.address}\t{host.name}\n" for host in state.hosts.values())
    for name in state.hosts:
        etc = directory / name / "etc"
        etc.mkdir(parents=True, exist_ok=True)
        (directory / name / "var-lib-pyswarm").mkdir(exist_ok=True)
        (etc / "hostname").write_text(f"{name}\n")
        (etc / "hosts").write_text(f"127.0.0.1\tlocalhost\n::1\tlocalhost\n{names}")
        (etc / "resolv.conf").write_text(f"nameserver {network.switch_address(subnet)}\noptions timeout:1 attempts:1\n")


def _start_boot(directory: Path, state: LabState, host: HostState) -> "subprocess.Popen[str]":
    own = directory / host.name
    mark = label(state.name, host.name)
    config = {
        "label": mark,
        "hostname": host.name,
        "cgroups": [str(path) for path in cgroups.create_group(state.name, host.name)],
        "cgroup_mounts": [{"target": str(h.mount_point), "kind": h.kind, "options": h.options} for h in cgroups.hierarchies()],
        "is_outside": host.name == SWITCH,
        "binds": [
            *([str(own / "etc" / name), f"/etc/{name}"] for name in ("hostname", "hosts", "resolv.conf")),
            *([] if host.name == SWITCH else [[str(own / "var-lib-pyswarm"), DISK_TARGET]]),
        ],
        "keep": [] if host.name == SWITCH else [str(path) for path in _paths_to_keep(directory)],
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "pyswarm_cli.lab.boot"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"PATH": boot.INIT_PATH, boot.LABEL_VARIABLE: mark},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(config))
    process.stdin.flush()
    process.stdin.close()
    process.stdin = None
    return process


def _finish_boot(host: HostState, process: "subprocess.Popen[str]") -> str:
    """Wait for a boot; fill in the host's first process. Returns what went wrong, or the empty string."""
    output, error = process.communicate()
    if process.returncode != 0:
        return f"host {host.name} does not start: {error.strip()}"
    host.init = ProcessIdentity.of(int(output))
    if host.init is None:
        return f"host {host.name} ended as soon as it was started"
    host.net_namespace = os.stat(f"/proc/{host.init.pid}/ns/net").st_ino
    return ""


def _paths_to_keep(directory: Path) -> list[Path]:
    """Return what hosts must see although it may lie under a place that they have of their own: this program and `share`."""
    private = [Path(place) for place in (*boot.EMPTY_AT_BOOT, "/var/lib")]
    kept = [directory / "share"]
    for path in sorted({Path(sys.prefix), *_source_roots()}):
        if any(place in path.parents for place in private) and not any(other in path.parents for other in kept):
            kept.append(path)
    return kept


def _source_roots() -> set[Path]:
    """Return the folders that the project's packages are imported from (an editable installation has them outside of sys.path)."""
    own_packages = [module for name, module in list(sys.modules.items()) if name.startswith("pyswarm_") and "." not in name]
    roots = {Path(path).parent.parent for module in own_packages for path in getattr(module, "__path__", [])}
    return {root for root in roots if root != Path("/")}


def _first_process(host: HostState) -> int:
    if host.init is None or not host.init.is_running:
        raise FailedPrecondition(f"host {host.name} is off")
    return host.init.pid


def _wait_until_dead(process: ProcessIdentity) -> None:
    deadline_s = time.monotonic() + _DEATH_PATIENCE_S
    while process.is_running:
        if time.monotonic() > deadline_s:
            raise PyswarmError(f"process {process.pid} does not die")
        time.sleep(_POLL_S)


def _run_with_input(command: list[str], text: str) -> None:
    result = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if result.returncode != 0:
        raise PyswarmError(f"`{' '.join(command)}` failed: {result.stderr.strip()}\n{text}")
