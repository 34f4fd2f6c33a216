#!/usr/bin/env python3
"""Queries per second of pyswarm-dns for names of the table, its memory, and the time to open 200 sandboxes. Needs root.

The asking processes keep `--window` questions under way each, in network namespaces of their own, on the same machine: with two
cores, the figure is what is left beside them. CPU time per query, also printed, is the server's alone.
"""

import argparse
import asyncio
import multiprocessing
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from pyswarm_netplugin.dns.client import DNSClient, SandboxConfig
from pyswarm_netplugin.dns.message import encode_query
from pyswarm_netplugin.dns.sockets import _enter_namespace


def ask(path: str, seconds: float, window: int, name: str, counts: "multiprocessing.Queue[int]") -> None:
    """Ask as fast as answers come, `window` at a time."""
    with open(path) as file:
        _enter_namespace(file.fileno(), path)
    packet = encode_query(1, name, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.11", 5353))
        sock.settimeout(5)
        for _ in range(window):
            sock.send(packet)
        count, end_s = 0, time.monotonic() + seconds
        while time.monotonic() < end_s:
            for _ in range(window):
                sock.recv(4096)
                sock.send(packet)
            count += window
    counts.put(count)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kb(pid: int) -> tuple[int, int]:
    """Return (RSS, PSS) of a process in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return values["Rss"], values["Pss"]


async def measure(options: argparse.Namespace, paths: list[str]) -> None:
    """Start a process, feed it, and print the figures."""
    with tempfile.TemporaryDirectory() as directory:
        client = DNSClient(Path(directory) / "dns.sock", instance_tag="bench")
        started_s = time.monotonic()
        await client.ensure_running()
        print(f"start to ready: {1000 * (time.monotonic() - started_s):.0f} ms, RSS/PSS {memory_kb(client.pid)} KiB")
        try:
            records = {f"web{i}": (f"10.0.{i // 250}.{i % 250 + 1}",) for i in range(1000)}
            records["tasks.web"] = tuple(f"10.1.0.{i}" for i in range(1, 11))
            started_s = time.monotonic()
            await client.feed({"n1": records}, {f"s{i}": SandboxConfig(path, ("n1",)) for i, path in enumerate(paths)})
            took_ms = 1000 * (time.monotonic() - started_s)
            print(f"feed of 1,000 names and {len(paths)} sandboxes: {took_ms:.0f} ms, RSS/PSS {memory_kb(client.pid)} KiB")
            for name in ("web500", "tasks.web"):
                await asyncio.to_thread(measure_queries, options, paths, client.pid, name)
        finally:
            await client.stop()


def measure_queries(options: argparse.Namespace, paths: list[str], pid: int, name: str) -> None:
    """Print the queries per second for one name."""
    counts: multiprocessing.Queue[int] = multiprocessing.Queue()
    askers = [
        multiprocessing.Process(target=ask, args=(path, options.seconds, options.window, name, counts))
        for path in paths[: options.askers]
    ]
    before_s = cpu_s(pid)
    for asker in askers:
        asker.start()
    total = sum(counts.get() for _ in askers)
    used_s = cpu_s(pid) - before_s
    for asker in askers:
        asker.join()
    print(f"{name}: {total / options.seconds:,.0f} queries/s, {1e6 * used_s / total:.1f} µs of CPU each")


def main() -> None:
    """Make namespaces, measure, remove them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--askers", type=int, default=1)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--sandboxes", type=int, default=200)
    options = parser.parse_args()
    names = [f"dnsbench-{os.getpid()}-{i}" for i in range(options.sandboxes)]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        asyncio.run(measure(options, [f"/run/netns/{name}" for name in names]))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


if __name__ == "__main__":
    main()
