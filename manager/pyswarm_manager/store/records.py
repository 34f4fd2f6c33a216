"""What lies where in etcd: the names of the keys, and the few records that are not objects of the cluster.

    pyswarm/objects/<kind>/<id>   one object each (kind: `services`, `tasks`, …)
    pyswarm/fence                 who may write: every write compares its mod_revision
    pyswarm/leader                the leader's heartbeat, renewed each second
    pyswarm/defragmenting         the id of the member that defragments its file, while it does
    pyswarm/version_base          added to mod_revisions to give the API's version indexes

Everything that pyswarm writes lies under `pyswarm/`, so that a watch sees every revision there is.
"""

import msgspec

from pyswarm_common.objects import KIND_OF_TYPE, TYPE_OF_KIND, AnyObject, Record
from pyswarm_manager.store.envelope import DataKeys

OBJECTS_PREFIX = "pyswarm/objects/"
FENCE_KEY = "pyswarm/fence"
LEADER_KEY = "pyswarm/leader"
DEFRAGMENT_KEY = "pyswarm/defragmenting"
VERSION_BASE_KEY = "pyswarm/version_base"
VERSION_BASE_STEP = 1 << 32
"""What a restore or a forced new cluster adds to the base, so that an old index never matches new content."""


class Fence(Record, frozen=True, kw_only=True):
    """Who may write, and the raft term of the local member when it was taken. Each taking raises the epoch."""

    epoch: int
    node: str
    raft_term: int = 0


class Heartbeat(Record, frozen=True, kw_only=True):
    """The leader's sign of life; only that it changes matters, not the time in it."""

    node: str
    at_ns: int


class VersionBase(Record, frozen=True, kw_only=True):
    """What is added to mod_revisions."""

    base: int = 0


class Codec:
    """Turns objects and records into sealed values and back."""

    def __init__(self, data_keys: DataKeys) -> None:
        self._data_keys = data_keys
        self._encoder = msgspec.msgpack.Encoder()
        self._object_decoders = {kind: msgspec.msgpack.Decoder(type_) for kind, type_ in TYPE_OF_KIND.items()}
        self._fence_decoder = msgspec.msgpack.Decoder(Fence)
        self._version_base_decoder = msgspec.msgpack.Decoder(VersionBase)

    def encode(self, item: AnyObject | Record) -> bytes:
        """Return the msgpack bytes, not yet sealed."""
        return self._encoder.encode(item)

    def seal(self, key: str, plaintext: bytes) -> bytes:
        """Return the value to store under `key`."""
        return self._data_keys.seal(key, plaintext)

    def seal_record(self, key: str, record: Record) -> bytes:
        """Return the value of a record to store under `key`."""
        return self._data_keys.seal(key, self._encoder.encode(record))

    def open_object(self, key: str, value: bytes) -> AnyObject:
        """Return the object stored under `key`. Raises EnvelopeError, msgspec.DecodeError, KeyError (unknown kind)."""
        kind, _ = parse_object_key(key)
        item: AnyObject = self._object_decoders[kind].decode(self._data_keys.open(key, value))
        return item

    def open_fence(self, value: bytes) -> Fence:
        """Return the fence stored under FENCE_KEY. Raises EnvelopeError, msgspec.DecodeError."""
        return self._fence_decoder.decode(self._data_keys.open(FENCE_KEY, value))

    def open_version_base(self, value: bytes) -> int:
        """Return the base stored under VERSION_BASE_KEY. Raises EnvelopeError, msgspec.DecodeError."""
        return self._version_base_decoder.decode(self._data_keys.open(VERSION_BASE_KEY, value)).base


def object_key(type_: type[AnyObject], object_id: str) -> str:
    """Return the etcd key of an object."""
    return f"{OBJECTS_PREFIX}{KIND_OF_TYPE[type_]}/{object_id}"


def parse_object_key(key: str) -> tuple[str, str]:
    """Return the kind and the id that an object's key names."""
    kind, _, object_id = key[len(OBJECTS_PREFIX) :].partition("/")
    return kind, object_id
