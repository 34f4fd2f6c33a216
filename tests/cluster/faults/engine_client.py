"""Asks the Engine API of one manager through its host's socket, and says what is known of a request that did not come back."""

import contextlib
import http.client
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from lab_cluster import UnixConnection

from faults.history import Outcome
from pyswarm_cli.lab.lab import Lab
from pyswarm_common.errors import PyswarmError

NOT_SENT = 0
LOST = -1
NOTHING_HAPPENED = re.compile(r"^This node|update out of sequence|nothing was changed")
"""What answers contain whose request certainly had no effect."""


class Answer(NamedTuple):
    """What came back. `status` is that of HTTP, NOT_SENT when nobody took the request, LOST when no answer came."""

    status: int
    content: Any

    @property
    def is_ok(self) -> bool:
        """Whether the request was carried out."""
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        """The error's text."""
        return str(self.content.get("message", "")) if isinstance(self.content, dict) else str(self.content or "")

    @property
    def outcome(self) -> Outcome:
        """What is known of a write's effect."""
        if self.is_ok:
            return "ok"
        if self.status == LOST or (self.status >= 500 and not self._says_nothing_happened):
            return "unknown"
        return "fail"

    @property
    def is_strange(self) -> bool:
        """Whether no fault explains it: an internal error, or a request that should never be wrong."""
        if self.status in (400, 401, 403, 405, 501):
            return True
        return self.status >= 500 and self.status != 503 and not self._says_nothing_happened

    @property
    def _says_nothing_happened(self) -> bool:
        return NOTHING_HAPPENED.search(self.message) is not None


class EngineClient:
    """Requests to one host's API, each on a connection of its own: hosts come and go."""

    def __init__(self, socket_of: Callable[[], Path]) -> None:
        self._socket_of = socket_of

    @classmethod
    def of_host(cls, lab: Lab, name: str) -> "EngineClient":
        """Return a client of a lab's host."""
        host = lab.host(name)
        return cls(lambda: host.socket_path)

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = 3.0) -> Answer:
        """Send a request and return what came back; never raises for what faults do."""
        try:
            connection = UnixConnection(str(self._socket_of()), timeout_s)
        except (OSError, PyswarmError) as error:
            return Answer(NOT_SENT, str(error))
        with contextlib.closing(connection):
            try:
                connection.connect()
            except OSError as error:
                return Answer(NOT_SENT, str(error))
            try:
                headers = {"Content-Type": "application/json"}
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                return Answer(LOST, f"{type(error).__name__}: {error}")
        return Answer(response.status, _decoded(text))

    def knows_leader(self, timeout_s: float = 1.5) -> bool | None:
        """Whether the manager says who leads; None when it does not answer."""
        answer = self._managers(timeout_s)
        return _leader_in(answer) is not None if answer.status > 0 else None

    def leader(self, timeout_s: float = 1.5) -> str | None:
        """Return the host name of the leader, as this manager sees it; None when it knows none, or does not answer."""
        return _leader_in(self._managers(timeout_s))

    def _managers(self, timeout_s: float) -> Answer:
        filters = quote(json.dumps({"role": ["manager"]}))
        return self.ask("GET", f"/nodes?filters={filters}", timeout_s=timeout_s)


def _leader_in(answer: Answer) -> str | None:
    for node in answer.content if answer.is_ok else []:
        if node.get("ManagerStatus", {}).get("Leader"):
            return str(node["Description"]["Hostname"])
    return None


def _decoded(text: bytes) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        return text.decode(errors="replace")
