"""A daemon to be killed: starts a container with private files on a node's folders, says so, and waits.

Arguments: data directory, runtime directory, instance tag, configuration as JSON, the files' content, hold. With `hold` it does not
start the container but stops for ever when its files are mounted.
"""

import asyncio
import sys
import time
from pathlib import Path

import msgspec

from pyswarm_agent.runtime import ContainerConfig, ContainerRuntime, launch
from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_common.clock import SystemClock


async def main() -> None:
    """Start the container and print its id when it runs, or `held`."""
    data_dir, runtime_dir, tag, encoded, content, hold = sys.argv[1:]
    runtime = ContainerRuntime(data_dir=Path(data_dir), runtime_dir=Path(runtime_dir), instance_tag=tag, clock=SystemClock())
    await runtime.start()
    if hold == "hold":
        launch.resolve_user = hold_for_ever  # type: ignore[attr-defined]
    config = msgspec.json.decode(encoded, type=ContainerConfig)
    await runtime.create(config)
    await runtime.start_container(config.id, [PrivateFile("/run/secrets/key", content.encode())])
    print(config.id, flush=True)
    await asyncio.Event().wait()


def hold_for_ever(*_: object) -> None:
    """Stand still at the step after the files were mounted."""
    print("held", flush=True)
    time.sleep(600)


asyncio.run(main())
