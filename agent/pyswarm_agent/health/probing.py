"""One probe: a process in the container, its exit code and what it wrote."""

from typing import Protocol

from pyswarm_agent.health.rules import ProbeResult
from pyswarm_agent.persistence import error_text
from pyswarm_agent.runtime.access.interface import ExecConfig, Finished
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_agent.runtime.records import HealthcheckConfig
from pyswarm_common.amounts import format_duration_ns
from pyswarm_common.clock import NANOSECONDS_PER_SECOND, Clock
from pyswarm_common.errors import Conflict, NotFound, PyswarmError

OUTPUT_LIMIT_BYTES = 4096
TIMED_OUT = NOT_RUN = -1


class ProcessRunner(Protocol):
    """What of `Access` a probe needs."""

    async def run(self, container_id: str, config: ExecConfig, *, timeout_s: float, output_limit_bytes: int = 4096) -> Finished:
        """Run a process to its end; kill it and raise TimeoutError when that takes longer than `timeout_s`."""
        ...


async def probe(runner: ProcessRunner, clock: Clock, container_id: str, check: HealthcheckConfig) -> ProbeResult | None:
    """Run the check once and return how it went; None when the container does not run, so that nothing can be said."""
    started_at_ns = clock.now_ns()
    try:
        finished = await runner.run(
            container_id, ExecConfig(args=command_of(check)), timeout_s=check.timeout_s, output_limit_bytes=OUTPUT_LIMIT_BYTES + 1
        )
        exit_code, output = finished.exit_code, _text(finished.output)
    except TimeoutError:
        limit = format_duration_ns(round(check.timeout_s * NANOSECONDS_PER_SECOND))
        exit_code, output = TIMED_OUT, f"Health check exceeded timeout ({limit})"
    except (Conflict, NotFound):
        return None
    except (ContainerStartFailed, PyswarmError, OSError) as error:
        exit_code, output = NOT_RUN, error_text(error)
    return ProbeResult(started_at_ns=started_at_ns, ended_at_ns=clock.now_ns(), exit_code=exit_code, output=output)


def command_of(check: HealthcheckConfig) -> tuple[str, ...]:
    """Return what is executed."""
    rest = check.test[1:]
    return (*check.shell, *rest) if check.test[0] == "CMD-SHELL" else rest


def _text(output: bytes) -> str:
    shown = output[:OUTPUT_LIMIT_BYTES].decode(errors="replace")
    return shown + "..." if len(output) > OUTPUT_LIMIT_BYTES else shown
