"""Placement constraints: parsing `node.labels.zone==north` and the like, and matching nodes. Pure.

Keys: node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, node.labels.NAME, engine.labels.NAME.
Operators: == and !=. Values compare without regard to case, as in Swarm (SwarmKit `manager/constraint`). The value of node.ip is
an address or a network such as 10.1.0.0/16, of IPv4 or IPv6. Other than Swarm, a key that does not exist and a node.ip that is no
address are refused instead of matching no node for ever.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Node

NODE_LABELS = "node.labels."
ENGINE_LABELS = "engine.labels."
PLAIN_KEYS = ("node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch")
_KEY = re.compile(r"[a-z_][a-z0-9\-_./]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/@,]+", re.IGNORECASE)
_SAME_ARCHITECTURE = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i386": "386", "i686": "386"}


@dataclass(frozen=True)
class Constraint:
    """One parsed constraint; plain keys and values are in lower case."""

    key: str
    is_equal: bool
    value: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    """Of node.ip: the network that the value names."""

    def matches(self, node: Node) -> bool:
        """Whether the node satisfies it. A label that a node does not have equals no value."""
        return self.is_met_by(attribute_of(node, self.key))

    def is_met_by(self, attribute: str | None) -> bool:
        """Whether a node satisfies it that has this attribute (as `attribute_of` returns it) under its key."""
        return self.equals(attribute) == self.is_equal

    def equals(self, attribute: str | None) -> bool:
        """Whether the attribute is the value, or an address of the network, whatever the operator."""
        if self.network is None or attribute is None:
            return attribute == self.value
        address = _parse_address(attribute)
        return address is not None and address in self.network

    def __str__(self) -> str:
        return f"{self.key}{'==' if self.is_equal else '!='}{self.value}"


def parse_constraints(expressions: Iterable[str]) -> tuple[Constraint, ...]:
    """Return the constraints that these expressions mean. Raises InvalidArgument, naming the part that is wrong."""
    return tuple(_parse(expression) for expression in expressions)


@lru_cache(maxsize=4096)
def _parse(expression: str) -> Constraint:
    key, operator, value = _split(expression)
    if not _KEY.fullmatch(key):
        raise InvalidArgument(f"invalid placement constraint {expression!r}: key '{key}' is invalid")
    if not _VALUE.fullmatch(value):
        raise InvalidArgument(f"invalid placement constraint {expression!r}: value '{value}' is invalid")
    value = value.lower()
    key = _normal_key(key, expression)
    if key == "node.platform.arch":
        value = normal_architecture(value)
    if key != "node.ip":
        return Constraint(key, operator == "==", value)
    if "/" not in value and (address := _parse_address(value)) is not None:
        return Constraint(key, operator == "==", str(address))
    try:
        return Constraint(key, operator == "==", value, ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise InvalidArgument(
            f"invalid placement constraint {expression!r}: '{value}' is neither an IP address nor a network such as 10.1.0.0/16"
        ) from None


def _split(expression: str) -> tuple[str, str, str]:
    for operator in ("==", "!="):
        key, found, value = expression.partition(operator)
        if found:
            return key.strip(), operator, value.strip()
    raise InvalidArgument(f"invalid placement constraint {expression!r}: constraint expected one operator from ==, !=")


def _normal_key(key: str, expression: str) -> str:
    """The key with everything but a label's name in lower case."""
    for prefix in (NODE_LABELS, ENGINE_LABELS):
        if key.lower().startswith(prefix) and len(key) > len(prefix):
            return prefix + key[len(prefix) :]
    if key.lower() in PLAIN_KEYS:
        return key.lower()
    known = ", ".join((*PLAIN_KEYS, f"{NODE_LABELS}NAME", f"{ENGINE_LABELS}NAME"))
    raise InvalidArgument(f"invalid placement constraint {expression!r}: there is no key '{key}', only {known}")


def attribute_of(node: Node, key: str) -> str | None:
    """Return what the node has under a constraint's key, in lower case; None when it has no such label, or no address."""
    if key.startswith((NODE_LABELS, ENGINE_LABELS)):
        label = label_of(node, key)
        return None if label is None else label.lower()
    description = node.description
    match key:
        case "node.id":
            return node.id.lower()
        case "node.hostname":
            return description.hostname.lower()
        case "node.ip":
            address = _parse_address(node.status.address)
            return None if address is None else str(address)
        case "node.role":
            return node.role.lower()
        case "node.platform.os":
            return description.os.lower()
        case _:
            return normal_architecture(description.architecture)


@lru_cache(maxsize=4096)
def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address, also one with a port; an IPv4 address in IPv6's clothes is an IPv4 address."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def label_of(node: Node, key: str) -> str | None:
    """Return the value of `node.labels.NAME` or `engine.labels.NAME`; None when the node has no such label."""
    if key.startswith(NODE_LABELS):
        return node.spec.labels.get(key[len(NODE_LABELS) :])
    if key.startswith(ENGINE_LABELS):
        return node.description.engine_labels.get(key[len(ENGINE_LABELS) :])
    return None


def normal_architecture(name: str) -> str:
    """Return one name for an architecture that has several: Docker images say amd64, kernels x86_64."""
    lower = name.lower()
    return _SAME_ARCHITECTURE.get(lower, lower)
