"""Whether the sources of a container's binds are there, asked so that nobody waits for long.

A file server that is down may hold a look at one of its files for ever, and no look-up can be called off. So each has a thread of
its own, which is left behind when it takes too long; who asks for the same path meanwhile waits for that one.
"""

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable

from pyswarm_agent.runtime.records import MountConfig
from pyswarm_common.errors import InvalidArgument, Unavailable

ANSWER_LIMIT_S = 10.0


class BindSources:
    """Looks at paths of the host. `exists` may block."""

    def __init__(self, exists: Callable[[str], bool] = os.path.exists, limit_s: float = ANSWER_LIMIT_S) -> None:
        self._exists = exists
        self._limit_s = limit_s
        self._asked: dict[str, asyncio.Future[bool]] = {}

    async def check(self, mounts: Iterable[MountConfig]) -> None:
        """Raise InvalidArgument, in Docker's words, for a source that is missing; Unavailable for one that does not answer."""
        sources = [mount.source for mount in mounts if mount.type == "bind" and not mount.creates_source]
        if not sources:
            return
        answers = {source: self._ask(source) for source in sources}
        await asyncio.wait(answers.values(), timeout=self._limit_s)
        for source, answer in answers.items():
            if not answer.done():
                raise Unavailable(
                    f"bind source path {source} did not answer within {self._limit_s:g} s: is it on a file server that is down?"
                )
            if not answer.result():
                raise InvalidArgument(f'invalid mount config for type "bind": bind source path does not exist: {source}')

    def _ask(self, path: str) -> asyncio.Future[bool]:
        known = self._asked.get(path)
        if known is not None:
            return known
        loop = asyncio.get_running_loop()
        answer = self._asked[path] = loop.create_future()

        def look() -> None:
            found = self._exists(path)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(functools.partial(self._answered, path, found))

        threading.Thread(target=look, name=f"look at {path}", daemon=True).start()
        return answer

    def _answered(self, path: str, found: bool) -> None:
        self._asked.pop(path).set_result(found)
