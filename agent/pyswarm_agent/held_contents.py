"""The secrets and configs that this node's tasks need: in memory only, for as long as the manager says that they are needed.

They come before or with the first task that names them. After a restart the tasks are known from disk and these are not: who needs
them waits for the manager's complete set, and only what is not in it either is missing.
"""

import asyncio
from collections.abc import Collection

from pyswarm_common.wire import Assignments, FileContent


class HeldContents:
    """By id. `session_began` first; then, for each of the session's messages, `take` before its tasks are told and `drop` after.

    In between nobody is told that a content is missing: tasks that are to run no longer are yet to hear of it.
    """

    def __init__(self) -> None:
        self._held: dict[str, FileContent] = {}
        self._of_earlier_sessions: set[str] = set()
        self._is_whole = False
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"HeldContents({sorted(self._held)})"

    def session_began(self) -> None:
        """What is held stays until the new session's complete set replaces it."""
        self._of_earlier_sessions = set(self._held)
        self._is_whole = False

    def take(self, message: Assignments) -> None:
        """Take in what a message brings."""
        self._held.update(message.contents)
        self._of_earlier_sessions.difference_update(message.contents)
        self._wake()

    def drop(self, message: Assignments) -> None:
        """Drop what a message says, or does not name if it is complete."""
        for content_id in message.removed_contents:
            self._held.pop(content_id, None)
        if message.is_complete:
            for content_id in self._of_earlier_sessions:
                self._held.pop(content_id, None)
            self._of_earlier_sessions.clear()
            self._is_whole = True
            self._wake()

    async def wait_for(self, content_ids: Collection[str]) -> dict[str, FileContent]:
        """Return these contents, as soon as the manager has sent them; without those that it does not have."""
        while not self._is_whole and not self._held.keys() >= set(content_ids):
            await self._changed.wait()
        return {content_id: self._held[content_id] for content_id in content_ids if content_id in self._held}

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
