"""What tests could leave on the machine: links, mounts, namespaces, cgroups, nft tables, processes, folders."""

import contextlib
import os
import subprocess
from pathlib import Path

RUN_VARIABLE = "PYSWARM_TEST_RUN"
_FOLDERS = ("/run", "/var/lib", "/run/netns", "/tmp")


def machine_traces() -> set[str]:
    """Return a line for each thing on the machine that a test could have made and forgotten.

    Labs come and go on a machine; a test's lab has the pid of its test run in its name, and only these are looked at.
    """
    found = {*_links(), *_mounts(), *_namespaces_with_names(), *_cgroups(), *_tables(), *_folders()}
    return {line for line in found if "pyswarm-lab" not in line or str(os.getpid()) in line}


def run_processes(mark: str) -> set[str]:
    """Return a line for each process, other than this one, that was started by the test run with this mark."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{RUN_VARIABLE}={mark}\0".encode() in Path(f"/proc/{name}/environ").read_bytes():
                    found.add(f"process {name}: {_command_line(name)}")
    return found


def other_test_runs() -> set[str]:
    """Return the pids of other pytest processes: while these run, what is new on the machine may be theirs."""
    own = {str(os.getpid()), str(os.getppid())}
    pids = {name for name in os.listdir("/proc") if name.isdigit()} - own
    return {pid for pid in pids if any(word in _command_line(pid) for word in ("-m pytest", "bin/pytest"))}


def _links() -> list[str]:
    return [f"link {line.split(': ')[1]}" for line in _output(["ip", "-oneline", "link"])]


def _mounts() -> list[str]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        place, kind = fields[4], fields[fields.index("-") + 1]
        # The machine's own services come and go with mounts, too; these are the kinds and places that tests use.
        if kind in {"overlay", "nsfs"} or "pyswarm" in place or "pytest" in place:
            found.append(f"mount {place} ({kind})")
    return found


def _namespaces_with_names() -> list[str]:
    return [f"network namespace {line}" for line in _output(["ip", "netns", "list"])]


def _cgroups() -> list[str]:
    found = []
    for folder, children, _ in os.walk("/sys/fs/cgroup"):
        found += [f"cgroup {folder}/{child}" for child in children if "pyswarm" in folder + child]
    return found


def _tables() -> list[str]:
    return [f"nft {line}" for line in _output(["nft", "list", "tables"])]


def _folders() -> list[str]:
    existing = [folder for folder in _FOLDERS if os.path.isdir(folder)]
    return [f"file {entry.path}" for folder in existing for entry in os.scandir(folder) if "pyswarm" in entry.name]


def _command_line(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _output(command: list[str]) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
