"""What a run did and saw: operations of clients, faults, and epochs of the fence. Written to a file line by line, one JSON each.

All times are seconds of the machine's monotonic clock, which all hosts of a lab share.
"""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

Outcome: TypeAlias = Literal["ok", "fail", "unknown"]


class Operation(msgspec.Struct, frozen=True, tag="operation", omit_defaults=True):
    """One request of one client.

    outcome   ok: acknowledged. fail: certainly without effect. unknown: the answer was lost, or says that it may have happened.
    wrote     the mark that the request leaves in the object's labels: unique, so that whoever sees it knows the write.
    parent    the mark that the object carried when it was read for this write ("" for a create).
    depth     how many writes lie under it: 1 for a create, one more than the parent's otherwise.
    seen…     what a read found; `seen` "" with outcome ok: the object does not exist.
    leaderless  a read's manager said, before or after, that it knows no leader: then it may answer from what it last knew.
    """

    client: int
    manager: str
    kind: Literal["create", "update", "delete", "read"]
    item: str
    began_s: float
    ended_s: float
    outcome: Outcome
    status: int = 0
    message: str = ""
    item_id: str = ""
    wrote: str = ""
    parent: str = ""
    depth: int = 0
    from_version: int = 0
    seen: str = ""
    seen_depth: int = 0
    seen_version: int = 0
    leaderless: bool = False


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """A fault that was carried out: on which hosts, from when to when."""

    kind: str
    hosts: tuple[str, ...]
    began_s: float
    ended_s: float


class EpochTaken(msgspec.Struct, frozen=True, tag="epoch"):
    """A node said that it holds this epoch of the fence."""

    node: str
    epoch: int
    event: str


class Sight(msgspec.Struct, frozen=True):
    """An object as a manager shows it in the end."""

    item_id: str
    mark: str
    depth: int
    version: int


class FinalState(msgspec.Struct, frozen=True, tag="final"):
    """Everything that one manager shows after the healing, by item."""

    manager: str
    items: dict[str, Sight]


Record: TypeAlias = Operation | Fault | EpochTaken | FinalState


class History:
    """All records of a run; threads may add to it."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records = list(records)
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        """Append a record."""
        with self._lock:
            self._records.append(record)

    def extend(self, records: Iterable[Record]) -> None:
        """Append several records."""
        with self._lock:
            self._records.extend(records)

    @property
    def operations(self) -> list[Operation]:
        """The clients' operations, by their end."""
        return [r for r in self._copy() if isinstance(r, Operation)]

    @property
    def faults(self) -> list[Fault]:
        """The faults, by their end."""
        return [r for r in self._copy() if isinstance(r, Fault)]

    @property
    def epochs(self) -> list[EpochTaken]:
        """The epochs, node by node in the order of their logs."""
        return [r for r in self._copy() if isinstance(r, EpochTaken)]

    @property
    def finals(self) -> list[FinalState]:
        """What the managers showed in the end."""
        return [r for r in self._copy() if isinstance(r, FinalState)]

    def save(self, path: Path) -> None:
        """Write all records to a file, one JSON per line."""
        path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in self._copy()))

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read what `save` wrote."""
        decoder = msgspec.json.Decoder(Record)
        return cls(decoder.decode(line) for line in path.read_bytes().splitlines())

    def _copy(self) -> list[Record]:
        with self._lock:
            return list(self._records)
