"""Container starts per second at several degrees of parallelism, and the time from create to running of a single one.

`bench/containers.py [--count N]`, as root. The root filesystem is a busybox; the network is the host's.
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from pyswarm_agent.runtime import ContainerConfig, ContainerRuntime
from pyswarm_common.clock import SystemClock
from pyswarm_common.ids import new_container_id


def make_layer(directory: Path) -> Path:
    """Return a layer that holds a busybox only."""
    (directory / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    return directory


async def start_all(runtime: ContainerRuntime, layer: Path, count: int, parallel: int) -> list[float]:
    """Start so many containers; return the milliseconds that each took from create to running."""
    gate = asyncio.Semaphore(parallel)

    async def start() -> float:
        args = ("/bin/busybox", "sleep", "1000")
        config = ContainerConfig(id=new_container_id(), args=args, layer_paths=(str(layer),), hostname="bench")
        async with gate:
            began = time.perf_counter()
            await runtime.create(config)
            await runtime.start_container(config.id)
            return (time.perf_counter() - began) * 1000

    return await asyncio.gather(*(start() for _ in range(count)))


async def measure(count: int, parallel: int) -> str:
    """Return one line of the table."""
    with tempfile.TemporaryDirectory(prefix="pyswarm-bench-") as folder:
        layer = make_layer(Path(folder) / "layer")
        runtime = ContainerRuntime(
            data_dir=Path(folder) / "data", runtime_dir=Path(folder) / "run", instance_tag="bench", clock=SystemClock()
        )
        await runtime.start()
        began = time.perf_counter()
        times_ms = await start_all(runtime, layer, count, parallel)
        started_s = time.perf_counter() - began
        began = time.perf_counter()
        await asyncio.gather(*(runtime.remove(record.config.id) for record in runtime.list()))
        removed_s = time.perf_counter() - began
        await runtime.close()
    slowest = max(times_ms)
    return (
        f"{parallel:>8} {count / started_s:>9.0f} {statistics.median(times_ms):>10.1f} {slowest:>8.1f} {count / removed_s:>10.0f}"
    )


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    count = parser.parse_args().count
    print("parallel  starts/s  median ms   max ms  removes/s")
    for parallel in (1, 4):
        print(await measure(count, parallel))


asyncio.run(main())
