"""Finds what exists of a lab without trusting its state file: the proof that `down` left nothing behind."""

import contextlib
import os
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from pyswarm_cli.lab import cgroups, network
from pyswarm_cli.lab.boot import LABEL_VARIABLE
from pyswarm_cli.lab.state import ProcessIdentity


def leftovers(lab: str, directory: Path, net_namespaces: Collection[int]) -> list[str]:
    """Return a line for each thing that exists of the lab with this name, folder and network namespace inodes."""
    processes = cgroups.lab_processes(lab) | labelled_processes(lab)
    found = [f"process {pid}: {_command_line(pid)}" for pid in sorted(processes) if ProcessIdentity.of(pid) is not None]
    found += [f"network namespace {inode}: held by process {pid}" for pid, inode in _namespace_holders(net_namespaces)]
    found += [f"mount: {line}" for line in _mounts(lab, directory, net_namespaces)]
    found += [f"cgroup: {path}" for path in cgroups.lab_directories(lab)]
    found += [
        f"link: {line}" for line in _lines(["ip", "-brief", "link", "show", "type", "bridge"]) if line.split()[0] == network.BRIDGE
    ]
    found += [f"nft {line}" for line in _lines(["nft", "list", "tables"]) if network.CUTS_TABLE in line]
    found += [f"files: {directory}"] if directory.exists() else []
    return found


def labelled_processes(lab: str) -> set[int]:
    """Return the pids of processes that carry the lab's label in their environment: its hosts' first processes."""
    mark = f"\0{LABEL_VARIABLE}={lab}/".encode()
    found = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if mark in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
                found.add(pid)
    return found


def _namespace_holders(inodes: Collection[int]) -> Iterator[tuple[int, int]]:
    for pid in _pids():
        with contextlib.suppress(OSError):
            inode = os.stat(f"/proc/{pid}/ns/net").st_ino
            if inode in inodes:
                yield pid, inode


def _mounts(lab: str, directory: Path, net_namespaces: Collection[int]) -> list[str]:
    marks = [f"{directory}/", f"/{cgroups.lab_group(lab)}/", *(f"net:[{inode}]" for inode in net_namespaces)]
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if any(mark in line for mark in marks)]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "?"


def _lines(command: list[str]) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
