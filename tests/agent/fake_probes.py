"""Probes that answer as a test says, and take as long as it says on its own clock."""

from collections.abc import Callable

from pyswarm_agent.runtime.access.interface import ExecConfig, Finished
from pyswarm_common.clock import ManualClock


class FakeProbes:
    """Implements `ProcessRunner`. `answer` is asked at each probe; `times_s` has when probes began."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.answer: Callable[[str], int | Finished | Exception] = lambda container_id: 0
        self.takes_s = 0.0
        self.times_s: list[float] = []
        self.commands: list[tuple[str, ...]] = []
        self.under_way = 0

    async def run(self, container_id: str, config: ExecConfig, *, timeout_s: float, output_limit_bytes: int = 4096) -> Finished:
        """Answer after `takes_s`. Raises what `answer` gives, TimeoutError when that is longer than the timeout."""
        self.times_s.append(self._clock.monotonic_s())
        self.commands.append(config.args)
        answer = self.answer(container_id)
        self.under_way += 1
        try:
            await self._clock.sleep(min(self.takes_s, timeout_s))
        finally:
            self.under_way -= 1
        if self.takes_s > timeout_s:
            raise TimeoutError
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Finished) else Finished(answer, b"")

    def fail(self, exit_code: int = 1, output: bytes = b"") -> None:
        """Let all probes fail from now on."""
        self.answer = lambda _: Finished(exit_code, output)
