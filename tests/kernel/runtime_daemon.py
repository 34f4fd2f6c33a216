"""A daemon to be killed: starts containers on a node's folders, says so, and waits.

Arguments: data directory, runtime directory, instance tag, configurations as JSON.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from pyswarm_agent.runtime import ContainerConfig, ContainerRuntime
from pyswarm_common.clock import SystemClock


async def main() -> None:
    """Start all containers at once and print each one's id when it runs."""
    data_dir, runtime_dir, tag, configs = sys.argv[1:]
    runtime = ContainerRuntime(data_dir=Path(data_dir), runtime_dir=Path(runtime_dir), instance_tag=tag, clock=SystemClock())
    await runtime.start()

    async def run(config: ContainerConfig) -> None:
        await runtime.create(config)
        await runtime.start_container(config.id)
        print(config.id, flush=True)

    await asyncio.gather(*map(run, msgspec.json.decode(configs, type=list[ContainerConfig])))
    await asyncio.Event().wait()


asyncio.run(main())
