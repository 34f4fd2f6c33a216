"""What the kernel lists of one namespace, as facts that can be compared; pure.

`State` says what the driver makes. Facts say everything that is there, down to the settings of a bridge port: they are read after
the driver's own changes (the seal) and again at each audit. So whatever a part of the driver makes, now or later, is watched
without a word about it here. A fact's key begins with its kind, then the interface that it belongs to ("" for none).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

LINK, ADDRESS, NEIGHBOUR, ROUTE, RULE, TABLE, SETTING = "link", "address", "neighbour", "route", "rule", "table", "setting"
KINDS = frozenset({LINK, ADDRESS, NEIGHBOUR, ROUTE, RULE, TABLE, SETTING})
GONE, ADDED, CHANGED = "gone", "added", "changed"


class Key(NamedTuple):
    """Which fact: its kind, its interface, and what tells it from its likes there."""

    kind: str
    device: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class LinkFact:
    """An interface. `settings`: those of its kind and of the bridge port that it is, by number, raw."""

    index: int
    is_up: bool
    mtu_bytes: int
    mac: bytes
    master: str
    settings: tuple[tuple[int, bytes], ...] = ()


class Entry(NamedTuple):
    """An address, neighbour, route or rule: the body of the message that makes it, its interface left out. Or a table's content,
    or a setting's value, in `shown`."""

    shown: str
    body: bytes = b""


Fact: TypeAlias = LinkFact | Entry
Facts: TypeAlias = Mapping[Key, Fact]


class Difference(NamedTuple):
    """A fact that is not as it was sealed. `how`: gone, added or changed."""

    key: Key
    how: str
    before: Fact | None
    now: Fact | None

    def describe(self) -> str:
        """Say what is wrong."""
        if isinstance(self.before, LinkFact) and isinstance(self.now, LinkFact):
            return f"{self.key.device}: {', '.join(_link_words(self.before, self.now))}"
        fact = self.now or self.before
        what = self.key.device if self.key.kind == LINK else f"{self.key.kind} {self.key.name}"
        where = f" of {self.key.device}" if self.key.device and self.key.kind != LINK else ""
        if self.key.kind == SETTING and isinstance(self.before, Entry) and isinstance(self.now, Entry):
            return f"{self.key.name} is {self.now.shown}, was {self.before.shown}"
        shown = f" ({fact.shown})" if isinstance(fact, Entry) and fact.shown and self.key.kind != TABLE else ""
        verb = {GONE: "is gone", ADDED: "is foreign", CHANGED: "was changed"}[self.how]
        return f"{what}{where}{shown} {verb}"


def _link_words(before: LinkFact, now: LinkFact) -> Iterator[str]:
    if before.is_up != now.is_up:
        yield "is up" if now.is_up else "is down"
    if before.mtu_bytes != now.mtu_bytes:
        yield f"MTU is {now.mtu_bytes}, was {before.mtu_bytes}"
    if before.mac != now.mac:
        yield f"hardware address is {now.mac.hex(':')}, was {before.mac.hex(':')}"
    if before.master != now.master:
        yield f"is a port of {now.master or 'nothing'}, was of {before.master or 'nothing'}"
    if before.settings != now.settings:
        yield "its settings were changed"


def differences(
    sealed: Facts, now: Facts, *, devices: Collection[str], is_shared: bool, touched: Collection[str] = ()
) -> tuple[Difference, ...]:
    """Return what differs, in order.

    `devices`: the interfaces that are desired; what concerns others that vanished is no difference. `is_shared`: others may add
    things here (a container in its namespace), only not take ours away. `touched`: kinds of facts that the driver changed itself.
    """
    found = []
    for key in sorted({*sealed, *now}):
        before, after = sealed.get(key), now.get(key)
        if before == after or key.kind in touched:
            continue
        if key.device and _is_renewed(sealed, now, key.device, devices):
            continue
        how = GONE if after is None else ADDED if before is None else CHANGED
        if how == ADDED and is_shared and key.kind != TABLE:
            continue
        if how == GONE and key.device and key.device not in devices:
            continue  # the kernel takes an interface away in its own time, what belongs to it first
        found.append(Difference(key, how, before, after))
    return tuple(found)


def _is_renewed(sealed: Facts, now: Facts, device: str, devices: Collection[str]) -> bool:
    """Whether an interface came, went or was replaced as the driver wanted it: what concerns it says nothing then."""
    before, after = sealed.get(Key(LINK, device)), now.get(Key(LINK, device))
    if device not in devices:
        return after is None
    if isinstance(before, LinkFact) and isinstance(after, LinkFact):
        return before.index != after.index
    return before is None and after is not None
