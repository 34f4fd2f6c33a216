"""What clients were promised: every acknowledged write, every one without an answer, and what a manager may show after a power cut.

Pure: requests and answers in, sentences about broken promises out. Each service has one writer, so its writes have an order.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

REVISION_LABEL = "revision"
_SIZES_BYTES = (100, 100, 100, 1_000, 10_000, 60_000)


@dataclass
class Promise:
    """One service. `revision` 0: it is not there. `pending`: the revision that a write without an answer would give it."""

    revision: int = 0
    pending: int | None = None
    version: int = 0
    """The highest version index that was seen."""
    service_id: str = ""
    last_revision: int = 0
    is_gone: bool = False
    """Its deletion was acknowledged, or found to have happened: the name is never used again."""


class Ledger:
    """All promises, by service name."""

    def __init__(self) -> None:
        self.promises: dict[str, Promise] = {}
        self.acknowledged = 0
        self.unanswered = 0
        self.unavailable = 0
        """How often a running manager said that it cannot serve at the moment."""
        self.broken: list[str] = []
        """Sentences about promises that were found broken outside `check`."""

    def written_down(self) -> str:
        """Return all promises as JSON, to compare by hand with a disk that was kept."""
        return json.dumps({name: asdict(promise) for name, promise in self.promises.items()}, indent=1)

    def forget(self) -> None:
        """Begin anew, with a new disk; the counts go on."""
        self.promises.clear()

    def new_name(self, writer: str) -> str:
        """Return a name that was never used, whose service is not there yet."""
        name = f"{writer}-{len(self.promises)}"
        self.promises[name] = Promise()
        return name

    def begin(self, name: str, *, deletes: bool = False) -> int:
        """A write is sent; returns the revision to send, 0 for a deletion."""
        promise = self.promises[name]
        if not deletes:
            promise.last_revision += 1
        promise.pending = 0 if deletes else promise.last_revision
        return promise.pending

    def acknowledge(self, name: str, service_id: str = "") -> None:
        """The write under way was acknowledged."""
        promise = self.promises[name]
        assert promise.pending is not None
        promise.revision, promise.pending = promise.pending, None
        promise.service_id = service_id or promise.service_id
        promise.is_gone = promise.revision == 0
        self.acknowledged += 1

    def see_version(self, name: str, version: int) -> None:
        """A reader was told this version index of an acknowledged state."""
        promise = self.promises[name]
        if version < promise.version:
            self.broken.append(f"{name}: its version went back from {promise.version} to {version}")
        promise.version = max(promise.version, version)

    def usable(self, writer: str) -> list[str]:
        """Return this writer's services that are there, and whose last write was answered."""
        return [
            name
            for name, promise in self.promises.items()
            if name.startswith(f"{writer}-") and promise.revision and promise.pending is None
        ]

    def check(self, listed: list[dict[str, Any]]) -> list[str]:
        """Compare with what `GET /services` shows after a power cut; return what is broken, and take what is shown as settled."""
        shown = {service["Spec"]["Name"]: service for service in listed}
        broken = [f"{name}: nobody made this service" for name in sorted(shown.keys() - self.promises.keys())]
        if len(shown) != len(listed):
            broken.append("a name is there twice")
        for name, promise in self.promises.items():
            service = shown.get(name)
            broken += [f"{name}: {what}" for what in _broken_promises(name, promise, service)]
            self._settle(promise, service)
        return broken

    def _settle(self, promise: Promise, service: dict[str, Any] | None) -> None:
        self.unanswered += promise.pending is not None
        promise.pending = None
        promise.revision = _revision(service) if service else 0
        promise.is_gone = promise.is_gone or (service is None and promise.last_revision > 0)
        if service:
            promise.service_id = service["ID"]
            promise.version = max(promise.version, service["Version"]["Index"])


def _broken_promises(name: str, promise: Promise, service: dict[str, Any] | None) -> list[str]:
    allowed = {promise.revision} | ({promise.pending} if promise.pending is not None else set())
    if service is None:
        return [] if 0 in allowed else [f"revision {promise.revision} was acknowledged, and the service is not there"]
    broken = []
    revision = _revision(service)
    if promise.is_gone:
        broken.append("its deletion was acknowledged, and it is there again")
    elif revision not in allowed:
        broken.append(f"it has revision {revision}; acknowledged was {promise.revision}, under way {promise.pending}")
    if promise.service_id and service["ID"] != promise.service_id:
        broken.append(f"its id was {promise.service_id} and is {service['ID']}")
    if service["Version"]["Index"] < promise.version:
        broken.append(f"its version was {promise.version} and is {service['Version']['Index']}")
    elif revision != promise.revision and service["Version"]["Index"] == promise.version:
        broken.append(f"it changed without a new version ({promise.version})")
    if not _is_whole(name, service):
        broken.append(f"it is not what was written as revision {revision}")
    return broken


def service_spec(name: str, revision: int) -> dict[str, Any]:
    """Return the spec that is written as this revision. Every part of it depends on the revision."""
    digest = hashlib.sha256(f"{name} {revision}".encode())
    size = _SIZES_BYTES[digest.digest()[0] % len(_SIZES_BYTES)]
    text = digest.hexdigest() * (size // 64 + 1)
    return {
        "Name": name,
        "Labels": {REVISION_LABEL: str(revision)},
        "TaskTemplate": {"ContainerSpec": {"Image": "none", "Env": [f"TEXT={text}", f"REVISION={revision}"]}},
        "Mode": {"Replicated": {"Replicas": 0}},
    }


def _revision(service: dict[str, Any]) -> int:
    return int(service["Spec"].get("Labels", {}).get(REVISION_LABEL, -1))


def _is_whole(name: str, service: dict[str, Any]) -> bool:
    wanted, spec = service_spec(name, _revision(service)), service["Spec"]
    env = spec.get("TaskTemplate", {}).get("ContainerSpec", {}).get("Env")
    return spec.get("Labels") == wanted["Labels"] and env == wanted["TaskTemplate"]["ContainerSpec"]["Env"]
