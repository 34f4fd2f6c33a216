"""The processes that clients start in containers in two steps, as Docker has it: first described, then started; asked about after.

They are kept in memory, and forgotten some minutes after their end, or with their container.
"""

import asyncio
import secrets
from collections.abc import Iterator

from pyswarm_agent.runtime.access.interface import Access, ExecConfig, Execution, TerminalSize, require_running
from pyswarm_agent.runtime.interface import ContainerStartFailed, Runtime, no_such_container
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.clock import NANOSECONDS_PER_SECOND, Clock
from pyswarm_common.errors import Conflict, NotFound
from pyswarm_common.objects import Record

KEPT_S = 300
NOT_STARTED = 126
"""The exit code of one that could not be started for other reasons than its command."""
RESIZE_WAIT_S = 10.0
"""How long a size is kept for a process that is just being started."""


class ExecDescription(Record, frozen=True, kw_only=True):
    """What is to be started, and what of it the client wants to have."""

    config: ExecConfig
    attaches_stdout: bool = True
    attaches_stderr: bool = True
    detach_keys: str = ""


class Exec:
    """One process: described, running, or ended."""

    def __init__(self, exec_id: str, container_id: str, description: ExecDescription) -> None:
        self.id = exec_id
        self.container_id = container_id
        self.description = description
        self.execution: Execution | None = None
        self.was_started = False
        self.exit_code: int | None = None
        self.ended_at_ns = 0
        self.ready = asyncio.Event()
        """Set once it runs or could not be started."""
        self.ended = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.was_started and self.exit_code is None


class ExecStore:
    """All of this node."""

    def __init__(self, access: Access, runtime: Runtime, clock: Clock) -> None:
        self._access = access
        self._runtime = runtime
        self._clock = clock
        self._execs: dict[str, Exec] = {}
        self._watching: set[asyncio.Task[None]] = set()

    def create(self, container_id: str, description: ExecDescription) -> Exec:
        """Note what is to be started. Raises NotFound, Conflict when the container does not run."""
        require_running(self._container(container_id), "exec")
        self._forget_old()
        made = Exec(secrets.token_hex(32), container_id, description)
        self._execs[made.id] = made
        self._tell(made, f"exec_create: {' '.join(description.config.args)}", {})
        return made

    def get(self, exec_id: str) -> Exec:
        """Return one. Raises NotFound."""
        self._forget_old()
        found = self._execs.get(exec_id)
        if found is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return found

    def ids_of(self, container_id: str) -> list[str]:
        """Return the ids of those in a container that have not ended."""
        return [each.id for each in self._execs.values() if each.container_id == container_id and each.exit_code is None]

    def check_startable(self, wanted: Exec) -> None:
        """Raise Conflict when it was started before or its container does not run, NotFound when that is gone."""
        if wanted.was_started:
            verb = "is already running" if wanted.is_running else "has already run"
            raise Conflict(f"Error: Exec command {wanted.id} {verb}")
        require_running(self._container(wanted.container_id), "exec")

    async def start(self, wanted: Exec, size: TerminalSize | None = None) -> Execution:
        """Start it, once. Raises Conflict, ContainerStartFailed; then it counts as ended with the exit code of that."""
        self.check_startable(wanted)
        wanted.was_started = True
        try:
            wanted.execution = await self._access.execute(wanted.container_id, wanted.description.config, size)
        except BaseException as error:
            self._end(wanted, error.exit_code if isinstance(error, ContainerStartFailed) else NOT_STARTED)
            raise
        finally:
            wanted.ready.set()
        self._tell(wanted, f"exec_start: {' '.join(wanted.description.config.args)}", {})
        watching = asyncio.get_running_loop().create_task(self._watch(wanted, wanted.execution))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        return wanted.execution

    async def resize(self, wanted: Exec, size: TerminalSize) -> None:
        """Tell its terminal's size, as soon as it runs. Raises Conflict."""
        try:
            async with asyncio.timeout(RESIZE_WAIT_S):
                await wanted.ready.wait()
        except TimeoutError:
            raise Conflict(f"timeout waiting for exec session {wanted.id} to be ready") from None
        if wanted.execution is not None and wanted.is_running:
            await wanted.execution.resize(size)

    async def _watch(self, wanted: Exec, execution: Execution) -> None:
        self._end(wanted, await execution.wait())

    def _end(self, wanted: Exec, exit_code: int) -> None:
        wanted.exit_code = exit_code
        wanted.ended_at_ns = self._clock.now_ns()
        wanted.ended.set()
        self._tell(wanted, "exec_die", {"exitCode": str(exit_code)})

    def _container(self, container_id: str) -> ContainerRecord:
        record = self._runtime.get(container_id)
        if record is None:
            raise no_such_container(container_id)
        return record

    def _tell(self, wanted: Exec, action: str, attributes: dict[str, str]) -> None:
        record = self._runtime.get(wanted.container_id)
        if record is not None:
            self._runtime.on_event(action, record, {"execID": wanted.id, **attributes})

    def _forget_old(self) -> None:
        for old in list(self._old()):
            del self._execs[old.id]

    def _old(self) -> Iterator[Exec]:
        now_ns = self._clock.now_ns()
        for each in self._execs.values():
            is_past = each.exit_code is not None and now_ns - each.ended_at_ns > KEPT_S * NANOSECONDS_PER_SECOND
            if is_past or (not each.is_running and self._runtime.get(each.container_id) is None):
                yield each
