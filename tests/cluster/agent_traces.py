"""What an agent has on its host besides its own processes: found before a test and after it, there must be no difference."""

import subprocess
from pathlib import Path
from typing import TypeAlias

from lab_cluster import wait_until

from pyswarm_cli.lab.host import Host

Traces: TypeAlias = dict[str, list[str]]
_SCRIPT = r"""
echo "== processes"; for p in /proc/[0-9]*; do tr '\0' ' ' < $p/cmdline 2>/dev/null | cut -c1-150; echo; done \
    | grep -E 'conmon|crun|line .i of|sleep|sh -c|cp --archive' | grep -v -E '^(grep|sh -c .echo)|== processes'
echo "== cgroups"; find /sys/fs/cgroup -type d -path '*/pyswarm-*/*' 2>/dev/null | grep -v '/conmon$'
echo "== mounts"; cut -d' ' -f5 /proc/self/mountinfo | grep -E '^/(run|var/lib)/pyswarm/' | grep -v '/netns$'
echo "== run"; find /run/pyswarm/bundles /run/pyswarm/oci -mindepth 1 2>/dev/null
echo "== sandboxes"; find /run -path '*netns/*' 2>/dev/null | sed 's/[0-9a-f]\{12,\}/ID/'
echo "== links"; ip -brief link | cut -d' ' -f1 | sed 's/@.*//'
cd /var/lib/pyswarm
echo "== containers"; find containers local-containers -mindepth 1 -maxdepth 2 2>/dev/null
echo "== tasks"; find . -path '*/tasks/*' 2>/dev/null
echo "== volumes"; find volumes -mindepth 1 -maxdepth 1 ! -name .new ! -name .removed
find volumes/.new volumes/.removed -mindepth 1 -maxdepth 2 2>/dev/null
find volumes -maxdepth 2 -name '.cop*'
echo "== partial"; find . -maxdepth 4 \( -name '*.partial' -o -name '*.tmp' \) -not -path './volumes/*/_data/*'
"""


def traces(host: Host) -> Traces:
    """Return what is there, by kind."""
    found: Traces = {}
    lines: list[str] = []
    for line in host.run(["sh", "-c", _SCRIPT], check=False).stdout.splitlines():
        if line.startswith("== "):
            lines = found.setdefault(line[3:], [])
        elif line.strip():
            lines.append(line)
    return {kind: sorted(set(lines)) for kind, lines in found.items()}


def left_since(host: Host, before: Traces) -> Traces:
    """Return what is there and was not before, by kind."""
    found = {kind: sorted(set(lines) - set(before.get(kind, []))) for kind, lines in traces(host).items()}
    return {kind: lines for kind, lines in found.items() if lines}


def assert_nothing_left(host: Host, before: Traces, timeout_s: float = 15.0) -> None:
    """Wait until nothing is there that was not before; fails with what is."""
    last: Traces = {}

    def is_clean() -> bool:
        nonlocal last
        last = left_since(host, before)
        return not last

    try:
        wait_until("nothing is left", is_clean, timeout_s)
    except BaseException:
        print(f"left on {host.name}: {last}")
        raise


def files_with(host: Host, text: str) -> list[str]:
    """Return the files on the host's disk, below /run and of the daemon's log in which a text stands."""
    places: list[Path] = [host.disk, host.root / "run", host.log_path]
    command = [
        "grep",
        "--recursive",
        "--files-with-matches",
        "--text",
        "--devices=skip",
        "--fixed-strings",
        text,
        *map(str, places),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
