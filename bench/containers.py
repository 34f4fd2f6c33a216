"""Containers started and removed per second, one by one and at once; how long one start, and one exec, takes; what they cost.

`bench/containers.py [--count N]`, as root. The root filesystem is a busybox; the network is the host's. `bare crun` is the same
bundle started by `crun run --detach` alone, one after the other: without monitor, log, writable layer, record on disk, or a way
to find it again; the ratio says what these cost. Memory is the proportional share (PSS): of the monitor per container, and what
the process of the runtime grew by.
"""

import argparse
import asyncio
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from pyswarm_agent.runtime import ContainerConfig, ContainerRuntime
from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_agent.runtime.access.interface import ExecConfig
from pyswarm_common.clock import SystemClock
from pyswarm_common.ids import new_container_id

PARALLEL = (1, 4, 8)
_ARGS = ("/bin/busybox", "sleep", "1000")


class Figures(NamedTuple):
    """What one run of the runtime measured."""

    starts_per_s: float
    median_ms: float
    p99_ms: float
    removes_per_s: float
    monitor_pss_kib: float
    growth_kib: float


def make_layer(directory: Path) -> Path:
    """Return a layer that holds a busybox only."""
    (directory / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    return directory


def pss_kib(process: int | str) -> int:
    """Return a process's proportional share of memory."""
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1))


async def start_all(runtime: ContainerRuntime, layer: Path, count: int, parallel: int) -> list[float]:
    """Start so many containers; return the milliseconds that each took from create to running."""
    gate = asyncio.Semaphore(parallel)

    async def start() -> float:
        config = ContainerConfig(id=new_container_id(), args=_ARGS, layer_paths=(str(layer),), hostname="bench")
        async with gate:
            began = time.perf_counter()
            await runtime.create(config)
            await runtime.start_container(config.id)
            return (time.perf_counter() - began) * 1000

    return await asyncio.gather(*(start() for _ in range(count)))


async def measure(count: int, parallel: int) -> Figures:
    """Start and remove `count` containers."""
    with tempfile.TemporaryDirectory(prefix="pyswarm-bench-") as folder:
        layer = make_layer(Path(folder) / "layer")
        runtime = ContainerRuntime(
            data_dir=Path(folder) / "data", runtime_dir=Path(folder) / "run", instance_tag="bench", clock=SystemClock()
        )
        await runtime.start()
        before_kib = pss_kib("self")
        began = time.perf_counter()
        times_ms = sorted(await start_all(runtime, layer, count, parallel))
        started_s = time.perf_counter() - began
        growth_kib = pss_kib("self") - before_kib
        monitors = [pss_kib((bundle / "conmon.pid").read_text().strip()) for bundle in (Path(folder) / "run/bundles").iterdir()]
        began = time.perf_counter()
        await asyncio.gather(*(runtime.remove(record.config.id) for record in runtime.list()))
        removed_s = time.perf_counter() - began
        await runtime.close()
    p99_ms = times_ms[min(len(times_ms) - 1, round(0.99 * (len(times_ms) - 1)))]
    return Figures(
        count / started_s,
        statistics.median(times_ms),
        p99_ms,
        count / removed_s,
        statistics.mean(monitors),
        growth_kib / count,
    )


def bare_crun(count: int) -> float:
    """Return how many containers plain `crun run --detach` starts per second, one after the other."""
    with tempfile.TemporaryDirectory(prefix="pyswarm-bench-") as folder:
        make_layer(Path(folder) / "rootfs")
        subprocess.run(["crun", "spec"], cwd=folder, check=True)
        path = Path(folder) / "config.json"
        spec = json.loads(path.read_text())
        spec["process"].update(terminal=False, args=list(_ARGS))
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "network"]
        path.write_text(json.dumps(spec))
        crun = ["unshare", "--mount", "sh", "-c", 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$0" "$@"', "crun"]
        names = [f"bench-{number}" for number in range(count)]
        began = time.perf_counter()
        for name in names:
            subprocess.run(
                [*crun, "run", "--detach", "--bundle", folder, name],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        elapsed_s = time.perf_counter() - began
        for name in names:
            subprocess.run([*crun, "delete", "--force", name], check=True)
    return count / elapsed_s


async def measure_exec(count: int) -> str:
    """Return how long a process takes that is run in a container, beside one that bare `crun exec` runs in the same container."""
    with tempfile.TemporaryDirectory(prefix="pyswarm-bench-") as folder:
        layer = make_layer(Path(folder) / "layer")
        runtime = ContainerRuntime(
            data_dir=Path(folder) / "data", runtime_dir=Path(folder) / "run", instance_tag="bench", clock=SystemClock()
        )
        await runtime.start()
        access = ContainerAccess(runtime)
        await access.start()
        config = ContainerConfig(id=new_container_id(), args=_ARGS, layer_paths=(str(layer),), hostname="bench")
        await runtime.create(config)
        await runtime.start_container(config.id)
        bare = ["crun", f"--root={Path(folder) / 'run/oci'}", "exec", config.id, "/bin/busybox", "true"]
        ours_ms, bare_ms = [], []
        for _ in range(count):
            began = time.perf_counter()
            await access.run(config.id, ExecConfig(args=("/bin/busybox", "true")), timeout_s=30)
            ours_ms.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            subprocess.run(bare, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            bare_ms.append((time.perf_counter() - began) * 1000)
        await access.close()
        await runtime.remove(config.id)
        await runtime.close()
    ours, plain = statistics.median(ours_ms), statistics.median(bare_ms)
    return f"exec: median {ours:.1f} ms, {ours / plain:.2f} of bare crun exec ({plain:.1f} ms)"


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    count = parser.parse_args().count
    bare_per_s = bare_crun(count)
    print(f"bare crun: {bare_per_s:.0f} starts/s")
    print("parallel  starts/s  / bare crun  median ms   p99 ms  removes/s  conmon KiB  runtime KiB each")
    for parallel in PARALLEL:
        f = await measure(count, parallel)
        print(
            f"{parallel:>8} {f.starts_per_s:>9.0f} {f.starts_per_s / bare_per_s:>12.2f} {f.median_ms:>10.1f} {f.p99_ms:>8.1f} "
            f"{f.removes_per_s:>10.0f} {f.monitor_pss_kib:>11.0f} {f.growth_kib:>17.0f}"
        )
    print(await measure_exec(count))


asyncio.run(main())
