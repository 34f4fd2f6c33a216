"""The control messages between pyswarmd and pyswarm-dns: msgpack with a length of 4 bytes before, over a unix socket.

Each request gets one reply, in order. The first request is `Hello`; a client that finds another protocol version ends that
process and starts its own.
"""

from typing import TypeAlias

import msgspec

PROTOCOL_VERSION = 3
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class _Message(msgspec.Struct, frozen=True, gc=False, tag=True, omit_defaults=True):
    """Base: the tag is the class's name."""


class SandboxConfig(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A sandbox: the path of its network namespace, its networks in the order of their precedence, its search domains.

    `upstreams`: the nameservers that are asked on from within the namespace; () for the host's, from the host.
    """

    netns_path: str
    network_ids: tuple[str, ...]
    search: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()


class Hello(_Message, frozen=True):
    """Who asks, and in which version."""

    protocol_version: int
    instance_tag: str


class SetNetwork(_Message, frozen=True):
    """The names of a network, all of them: addresses by name. Each may be asked for with the network's own `name` behind it."""

    network_id: str
    records: dict[str, tuple[str, ...]]
    name: str = ""


class RemoveNetwork(_Message, frozen=True):
    """The network is no longer needed on this node."""

    network_id: str


class AddSandbox(_Message, frozen=True):
    """Answer in this sandbox; again with other networks changes them."""

    sandbox_id: str
    sandbox: SandboxConfig


class RemoveSandbox(_Message, frozen=True):
    """The sandbox goes away."""

    sandbox_id: str


class Feed(_Message, frozen=True):
    """Everything: what is not in it is dropped, sandboxes that stay keep their sockets. `network_names` by network id."""

    networks: dict[str, dict[str, tuple[str, ...]]]
    sandboxes: dict[str, SandboxConfig]
    network_names: dict[str, str] = {}


class GetStatus(_Message, frozen=True):
    """Ask for `Status`."""


class Stop(_Message, frozen=True):
    """End the process, after the reply."""


class Welcome(_Message, frozen=True):
    """The reply to `Hello`."""

    protocol_version: int
    instance_tag: str
    pid: int


class Done(_Message, frozen=True):
    """It is done; `failures` says which sandboxes of a feed could not be served, and why."""

    failures: dict[str, str] = {}


class Failed(_Message, frozen=True):
    """It could not be done."""

    message: str


class Status(_Message, frozen=True):
    """What the process serves, and how many questions it has seen since it started."""

    pid: int
    networks: tuple[str, ...]
    sandboxes: tuple[str, ...]
    queries: int
    forwarded: int


Request: TypeAlias = Hello | SetNetwork | RemoveNetwork | AddSandbox | RemoveSandbox | Feed | GetStatus | Stop
Reply: TypeAlias = Welcome | Done | Failed | Status

_encoder = msgspec.msgpack.Encoder()
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """Return the message's msgpack bytes, without the length."""
    return _encoder.encode(message)


def decode_request(data: bytes) -> Request:
    """Return what a client asked. Raises msgspec.DecodeError."""
    return _request_decoder.decode(data)


def decode_reply(data: bytes) -> Reply:
    """Return what the process answered. Raises msgspec.DecodeError."""
    return _reply_decoder.decode(data)
