"""The clients: each creates, updates with version checks, deletes and reads through managers chosen at random, and records it all.

Objects: services without replicas, which come and go, and the labels of nodes, which stay and which the cluster itself writes, too.
Every write leaves a mark in the object's labels, and the mark that it was made on: that is what the checker puts into order.
"""

import itertools
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from faults.chains import ABSENT, INITIAL
from faults.engine_client import LOST, Answer, EngineClient
from faults.history import History, Operation

MARK, PARENT, DEPTH = "fault.mark", "fault.parent", "fault.depth"
PAUSE_S = (0.01, 0.06)
AVOID_S = 2.0
MOST_SERVICES = 24
RACE_PREFIX = "race-"
"""Names that several clients create at the same time. They are never deleted: one create of each may be acknowledged."""
_SUSPICIOUS_READ_S = 0.9
"""A read that took this long may have ended because its manager lost the leader meanwhile."""


class Seen:
    """An object as a read found it."""

    def __init__(self, item: str, content: Mapping[str, Any]) -> None:
        labels = content["Spec"].get("Labels") or {}
        self.item = item
        self.item_id = str(content["ID"])
        self.spec = dict(content["Spec"])
        self.version = int(content["Version"]["Index"])
        self.mark = str(labels.get(MARK, INITIAL))
        self.depth = int(labels.get(DEPTH, 0))


class Objects:
    """The objects that clients work on, shared by all of them. `run` is in every name."""

    def __init__(self, run: str, nodes: Sequence[str]) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._services: dict[str, None] = {}
        self._nodes = list(nodes)
        self._numbers = itertools.count(1)
        self._race = ""
        self._racers = 0

    def new_name(self) -> str:
        """Return a name that was never used."""
        return f"services/w-{self._run}-{next(self._numbers)}"

    def race_name(self) -> str:
        """Return a name that the next client who asks gets as well."""
        with self._lock:
            self._racers += 1
            if self._racers % 2:
                self._race = f"services/{RACE_PREFIX}{self._run}-{next(self._numbers)}"
            return self._race

    def add(self, item: str) -> None:
        """Note that a service may be there."""
        with self._lock:
            self._services[item] = None

    def discard(self, item: str) -> None:
        """Note that a service is gone."""
        with self._lock:
            self._services.pop(item, None)

    @property
    def count(self) -> int:
        """How many services there may be."""
        with self._lock:
            return len(self._services)

    def choose(self, chance: random.Random) -> str:
        """Return an object to work on."""
        with self._lock:
            if not self._services or chance.random() < 0.15:
                return f"nodes/{chance.choice(self._nodes)}"
            return chance.choice(list(self._services))


class Client:
    """One client, which works in `thread` until `stop` is set."""

    def __init__(
        self,
        number: int,
        seed: int,
        managers: Mapping[str, EngineClient],
        objects: Objects,
        history: History,
        stop: threading.Event,
    ) -> None:
        self.thread = threading.Thread(target=self._run_until_stopped, name=f"client-{number}", daemon=True)
        self.strange: list[str] = []
        """Answers that no fault explains."""
        self.failure: Exception | None = None
        self._number = number
        self._marks_begin = f"{seed:x}-c{number}"
        self._chance = random.Random(f"{seed}/{number}")
        self._managers = managers
        self._objects = objects
        self._history = history
        self._halt = stop
        self._marks = itertools.count(1)
        self._avoided_until_s: dict[str, float] = {}

    def _run_until_stopped(self) -> None:
        """Work until stopped; what goes wrong in this very program is kept in `failure`."""
        try:
            while not self._halt.is_set():
                self._do_something()
                self._halt.wait(self._chance.uniform(*PAUSE_S))
        except Exception as error:  # noqa: BLE001  a thread has nobody else to tell
            self.failure = error

    def _do_something(self) -> None:
        roll = self._chance.random()
        if self._objects.count < MOST_SERVICES and roll < 0.15:
            self._create(self._objects.race_name() if roll < 0.04 else self._objects.new_name())
            return
        item = self._objects.choose(self._chance)
        if roll < 0.2 and item.startswith("services/") and not item.startswith(f"services/{RACE_PREFIX}"):
            self._delete(item)
        elif roll < 0.65:
            self._update(item)
        else:
            self._read(item)

    def _create(self, item: str) -> None:
        mark = self._new_mark()
        spec = {
            "Name": item.removeprefix("services/"),
            "Labels": {MARK: mark, PARENT: ABSENT, DEPTH: "1"},
            "TaskTemplate": {"ContainerSpec": {"Image": "none"}},
            "Mode": {"Replicated": {"Replicas": 0}},
        }
        answer = self._write("create", item, "POST", "/services/create", spec, wrote=mark, depth=1)
        if answer.outcome != "fail":
            self._objects.add(item)

    def _update(self, item: str) -> None:
        found = self._read(item)
        if found is None:
            return
        mark = self._new_mark()
        marks = {MARK: mark, PARENT: found.mark, DEPTH: str(found.depth + 1)}
        spec = {**found.spec, "Labels": {**(found.spec.get("Labels") or {}), **marks}}
        noun = item.partition("/")[0]
        path = f"/{noun}/{found.item_id}/update?version={found.version}"
        known = {"item_id": found.item_id, "parent": found.mark, "from_version": found.version}
        self._write("update", item, "POST", path, spec, wrote=mark, depth=found.depth + 1, **known)

    def _delete(self, item: str) -> None:
        answer = self._write("delete", item, "DELETE", f"/services/{item.removeprefix('services/')}", None)
        if answer.is_ok:
            self._objects.discard(item)

    def _write(self, kind: str, item: str, method: str, path: str, body: Any, **known: Any) -> Answer:
        manager = self._choose_manager()
        began_s = time.monotonic()
        answer = self._managers[manager].ask(method, path, body)
        self._record(kind, item, manager, began_s, answer, outcome=answer.outcome, **known)
        if answer.status == LOST:
            self._avoid(manager)
        return answer

    def _read(self, item: str) -> Seen | None:
        """Look at an object; None when it is not there, or nobody says."""
        manager = self._choose_manager()
        client = self._managers[manager]
        knew_leader = client.knows_leader()
        if knew_leader is None:
            self._avoid(manager)
            return None
        began_s = time.monotonic()
        answer = client.ask("GET", f"/{item}")
        took_s = time.monotonic() - began_s
        leaderless = not knew_leader or took_s > _SUSPICIOUS_READ_S or not client.knows_leader()
        found = Seen(item, answer.content) if answer.is_ok else None
        known: dict[str, Any] = {"leaderless": leaderless}
        if found is not None:
            known |= {"item_id": found.item_id, "seen": found.mark, "seen_depth": found.depth, "seen_version": found.version}
        is_absent = answer.status == 404
        outcome = "ok" if found is not None or is_absent else "fail"
        self._record("read", item, manager, began_s, answer, ended_s=began_s + took_s, outcome=outcome, **known)
        if is_absent and not leaderless:
            self._objects.discard(item)
        return found

    def _record(self, kind: Any, item: str, manager: str, began_s: float, answer: Answer, **known: Any) -> None:
        known = {"ended_s": time.monotonic(), "message": "" if answer.is_ok else answer.message, "status": answer.status, **known}
        self._history.add(Operation(client=self._number, manager=manager, kind=kind, item=item, began_s=began_s, **known))
        if answer.is_strange:
            self.strange.append(f"{kind} {item} on {manager}: {answer.status} {answer.message}")

    def _choose_manager(self) -> str:
        now_s = time.monotonic()
        answering = [name for name in self._managers if self._avoided_until_s.get(name, 0.0) <= now_s]
        return self._chance.choice(answering or list(self._managers))

    def _avoid(self, manager: str) -> None:
        """Turn to others for a while, as a client would who waited in vain."""
        self._avoided_until_s[manager] = time.monotonic() + AVOID_S

    def _new_mark(self) -> str:
        return f"{self._marks_begin}-{next(self._marks)}"


def list_path(noun: str, **filters: list[str]) -> str:
    """Return the path that lists all objects of a noun."""
    return f"/{noun}?filters={quote(json.dumps(filters))}" if filters else f"/{noun}"
