"""Clients that write through the Engine API, each on services of its own, and enter in the ledger what they are told."""

import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from power_ledger import Ledger, service_spec

WRITERS = ("ada", "bob", "cyd")
_TIMEOUT_S = 30.0
_MOST_SERVICES = 8
_UNAVAILABLE = 503
_PAUSE_S = 0.5


class Refused(Exception):
    """The manager answered a request with an error: `status`, and its message as the text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Engine:
    """The Engine API on a port of the loopback interface; one connection, kept open."""

    def __init__(self, port: int, timeout_s: float = _TIMEOUT_S) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer, decoded if it is one JSON value. `body` is sent as JSON, bytes as they are.

        Raises Refused, OSError, http.client.HTTPException.
        """
        kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
        payload = body if body is None or isinstance(body, bytes) else json.dumps(body)
        try:
            self._connection.request(method, path, payload, {"Content-Type": kind})
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if answer.status >= 400:
            raise Refused(answer.status, text.decode(errors="replace"))
        try:
            return json.loads(text)
        except ValueError:
            return text.decode()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Writer:
    """One client. `run` until the machine stops answering."""

    def __init__(self, name: str, port: int, ledger: Ledger, lock: threading.Lock, rng: random.Random) -> None:
        self._name = name
        self._engine = Engine(port)
        self._ledger = ledger
        self._lock = lock
        self._rng = rng

    def run(self, on_acknowledged: Callable[[], None]) -> None:
        """Write until the machine stops answering; calls `on_acknowledged` after each write that was."""
        try:
            while True:
                self._write_or_wait(on_acknowledged)
        except (OSError, http.client.HTTPException):
            pass  # the power is gone
        finally:
            self._engine.close()

    def _write_or_wait(self, on_acknowledged: Callable[[], None]) -> None:
        try:
            self._write_once()
            on_acknowledged()
        except Refused as error:
            if error.status != _UNAVAILABLE:
                raise
            with self._lock:
                self._ledger.unavailable += 1
            time.sleep(_PAUSE_S)  # what became of the write is open until the next check

    def _write_once(self) -> None:
        with self._lock:
            names = self._ledger.usable(self._name)
        dice = self._rng.random()
        if not names or (len(names) < _MOST_SERVICES and dice < 0.3):
            self._create()
        elif dice < 0.15 + 0.3 * (len(names) >= _MOST_SERVICES):
            self._delete(self._rng.choice(names))
        else:
            self._update(self._rng.choice(names))

    def _create(self) -> None:
        with self._lock:
            name = self._ledger.new_name(self._name)
            revision = self._ledger.begin(name)
        answer = self._engine.ask("POST", "/services/create", service_spec(name, revision))
        self._acknowledge(name, answer["ID"])

    def _update(self, name: str) -> None:
        version = self._engine.ask("GET", f"/services/{name}")["Version"]["Index"]
        with self._lock:
            self._ledger.see_version(name, version)
            revision = self._ledger.begin(name)
        spec = service_spec(name, revision)
        self._engine.ask("POST", f"/services/{name}/update?version={version}", spec)
        self._acknowledge(name)
        if self._rng.random() < 0.1:
            self._update_with_old_version(name, version, spec)

    def _update_with_old_version(self, name: str, version: int, spec: dict[str, Any]) -> None:
        try:
            self._engine.ask("POST", f"/services/{name}/update?version={version}", spec)
        except Refused:
            return
        with self._lock:
            self._ledger.broken.append(f"{name}: an update with the old version {version} was accepted")

    def _delete(self, name: str) -> None:
        with self._lock:
            self._ledger.begin(name, deletes=True)
        self._engine.ask("DELETE", f"/services/{name}")
        self._acknowledge(name)

    def _acknowledge(self, name: str, service_id: str = "") -> None:
        with self._lock:
            self._ledger.acknowledge(name, service_id)


class Workload:
    """All writers at work on one run of the machine."""

    def __init__(self, port: int, ledger: Ledger, rng: random.Random) -> None:
        self._lock = threading.Lock()
        self._acknowledged = threading.Condition()
        self._count = 0
        self.errors: list[str] = []
        writers = [Writer(name, port, ledger, self._lock, random.Random(rng.random())) for name in WRITERS]
        self._at_work = len(writers)
        self._threads = [threading.Thread(target=self._run, args=(writer,)) for writer in writers]

    def start(self) -> None:
        """Let the writers begin."""
        for thread in self._threads:
            thread.start()

    def wait_acknowledged(self, count: int, timeout_s: float) -> bool:
        """Return when that many writes of this run were acknowledged, or no more will be; whether they were, and all went well."""
        with self._acknowledged:
            self._acknowledged.wait_for(lambda: self._count >= count or self._at_work == 0, timeout_s)
            return self._count >= count and not self.errors

    def join(self) -> None:
        """Return when the writers have noticed that the machine is gone."""
        for thread in self._threads:
            thread.join()

    def _run(self, writer: Writer) -> None:
        try:
            writer.run(self._note)
        except Refused as error:
            self.errors.append(f"a write was answered with {error}")
        finally:
            with self._acknowledged:
                self._at_work -= 1
                self._acknowledged.notify_all()

    def _note(self) -> None:
        with self._acknowledged:
            self._count += 1
            self._acknowledged.notify_all()
