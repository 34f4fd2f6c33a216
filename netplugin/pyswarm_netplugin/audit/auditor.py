"""One audit: read, compare with the seal and with what is desired, repair, seal again. Blocking, on the driver's own thread.

What differs from the seal is put right fact by fact, so that a link that was set down comes up again and stays the same link. What
then still differs from what is desired is made anew by a plan, as at a start; so is what no single fact can put right (the rules of
a table, the settings of a VXLAN device): the plan is told that it is not there. When nothing was touched and no fact has changed,
the kernel is not read a second time as a `State`, but for every twelfth audit.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import structlog

from pyswarm_common.errors import PyswarmError
from pyswarm_netplugin import naming
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.apply import carry_out
from pyswarm_netplugin.audit.blanking import blanked
from pyswarm_netplugin.audit.drift import Drift
from pyswarm_netplugin.audit.facts import CHANGED, SETTING, TABLE, Difference, Entry, Facts, Key, differences
from pyswarm_netplugin.audit.ownership import is_ours
from pyswarm_netplugin.audit.touch import kinds_of, merged, touched_by
from pyswarm_netplugin.audit.yielding import AuditInterrupted
from pyswarm_netplugin.kernel.interface import Kernel
from pyswarm_netplugin.plan import plan
from pyswarm_netplugin.secure.operations import SECURE_SCOPE
from pyswarm_netplugin.state import State

WHOLE_EVERY = 12
_REWRITTEN = Difference(Key(TABLE, "", f"ip {naming.SANDBOX_TABLE}"), CHANGED, Entry("?"), Entry("?"))
_log = structlog.get_logger()


class Inspector(Protocol):
    """Reads and restores facts; `kernel.inspector.KernelInspector` is the real one."""

    def read(self, must_end: Callable[[], bool] = ...) -> dict[str, Facts]:
        """Return the facts of all that stands, by scope. Raises OSError, AuditInterrupted once `must_end` says so."""
        ...

    def rewritten(self) -> frozenset[str]:
        """Return the scopes in which others have changed tables since we wrote ours; once."""
        ...

    def restore(self, scope: str, differences: tuple[Difference, ...]) -> None:
        """Make these facts as they were sealed, as far as that can be done one by one. Raises OSError."""
        ...


class Findings(NamedTuple):
    """What an audit found; `is_sound`: the kernel is as desired now. `failures` by scope."""

    drifts: tuple[Drift, ...]
    is_sound: bool
    failures: Mapping[str, PyswarmError]


class Auditor:
    """Holds the seals of one driver."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._seals: dict[str, Facts] = {}
        self._rounds = 0

    def look(
        self,
        kernel: Kernel,
        desired: State,
        known: State | None,
        touched: dict[str, frozenset[str]],
        must_end: Callable[[], bool] = lambda: False,
    ) -> Findings:
        """Audit once. `known`: the state that was reached last, None when it is unknown. Raises OSError; nothing is sealed then."""
        seals, self._seals = self._seals, {}
        self._rounds += 1
        inspector = kernel.inspector()
        if inspector is None:
            operations = plan(desired, kernel.observe())
            failures = carry_out(kernel, operations)
            return Findings(_drifts({}, {}, operations, failures), not failures, failures)
        try:
            facts = inspector.read(must_end)
        except AuditInterrupted:
            self._seals = seals
            raise
        found = _with_rewritten(self._compare(seals, facts, desired, touched), inspector.rewritten(), desired)
        is_whole = known is None or bool(touched) or desired.secure is not None or self._rounds % WHOLE_EVERY == 1
        if not (is_whole or found or facts.keys() != seals.keys()):
            self._seals = facts
            return Findings((), True, {})
        _restore(inspector, found)
        operations = plan(desired, blanked(desired, kernel.observe(), found, self._tag))
        failures = carry_out(kernel, operations)
        facts, rest = self._after(inspector, seals, facts, found, operations, touched, desired)
        self._seals = {scope: _with_rest(each, rest.get(scope, ())) for scope, each in facts.items() if scope not in failures}
        return Findings(_drifts(found, rest, operations, failures), not failures and not rest, failures)

    def _after(
        self,
        inspector: Inspector,
        seals: Mapping[str, Facts],
        facts: dict[str, Facts],
        found: Mapping[str, tuple[Difference, ...]],
        operations: tuple[op.Operation, ...],
        touched: dict[str, frozenset[str]],
        desired: State,
    ) -> tuple[dict[str, Facts], dict[str, tuple[Difference, ...]]]:
        """Return the facts after the repair, and what is still not right. What the plan made anew may lack what was put on it."""
        if not (found or operations):
            return facts, {}
        done = touched_by(operations)
        written = {scope: kinds & {TABLE, SETTING} for scope, kinds in done.items()}
        facts = inspector.read()
        rest = self._compare({s: seals[s] for s in seals if s in found}, facts, desired, touched)
        if rest:
            _restore(inspector, rest)
            facts = inspector.read()
            rest = self._compare({s: seals[s] for s in rest}, facts, desired, merged(touched, written))
        return facts, rest

    def _compare(
        self, seals: Mapping[str, Facts], facts: Mapping[str, Facts], desired: State, touched: dict[str, frozenset[str]]
    ) -> dict[str, tuple[Difference, ...]]:
        found = {}
        for scope, sealed in seals.items():
            if scope in facts:
                each = differences(
                    sealed,
                    facts[scope],
                    devices=devices_of(scope, desired, self._tag),
                    is_shared=not scope.startswith(("overlay ", SECURE_SCOPE)),
                    touched=kinds_of(touched, scope),
                )
                ours = tuple(one for one in each if is_ours(one, scope, facts[scope], desired, self._tag))
                if ours:
                    found[scope] = ours
        return found

    def forget(self) -> None:
        """Trust nothing that was sealed."""
        self._seals = {}


def devices_of(scope: str, desired: State, tag: str) -> frozenset[str]:
    """Return the interfaces that are desired in a scope; pure."""
    if scope == op.HOST_SCOPE:
        ports = {naming.egress_port(tag, sandbox_id) for sandbox_id in desired.sandboxes}
        return frozenset({naming.egress_bridge(tag), *ports})
    kind, _, id_ = scope.partition(" ")
    if kind == "overlay":
        own = {naming.overlay_port(s, id_) for s, box in desired.sandboxes.items() if _is_on(box.links.values(), id_)}
        return frozenset({naming.OVERLAY_BRIDGE, naming.OVERLAY_TUNNEL, naming.HOST_PORT, *own})
    if scope == SECURE_SCOPE:
        return frozenset({naming.SECURE_INTERFACE})
    sandbox = desired.sandboxes.get(id_)
    return frozenset({"lo", *(sandbox.links if sandbox is not None else ())})


def _is_on(links: Iterable[object], network_id: str) -> bool:
    return any(getattr(link, "network_id", None) == network_id for link in links)


def _with_rewritten(
    found: dict[str, tuple[Difference, ...]], scopes: Iterable[str], desired: State
) -> dict[str, tuple[Difference, ...]]:
    """Add the tables that others may have changed before they could be sealed."""
    more = dict(found)
    for scope in scopes:
        kind, _, id_ = scope.partition(" ")
        if kind == "sandbox" and id_ in desired.sandboxes and scope not in more:
            more[scope] = (_REWRITTEN,)
    return more


def _restore(inspector: Inspector, found: Mapping[str, tuple[Difference, ...]]) -> None:
    for scope, each in found.items():
        try:
            inspector.restore(scope, each)
        except OSError as error:
            _log.warning("network.restore_failed", scope=scope, error=str(error))


def _with_rest(now: Facts, rest: tuple[Difference, ...]) -> Facts:
    """The facts as they are to be sealed: what could not be put right stays wanted."""
    if not rest:
        return now
    sealed = {key: fact for key, fact in now.items() if key not in {each.key for each in rest}}
    return sealed | {each.key: each.before for each in rest if each.before is not None}


def _drifts(
    found: Mapping[str, tuple[Difference, ...]],
    rest: Mapping[str, tuple[Difference, ...]],
    operations: Iterable[op.Operation],
    failures: Mapping[str, PyswarmError],
) -> tuple[Drift, ...]:
    words: dict[str, list[str]] = {scope: [each.describe() for each in found[scope]] for scope in found}
    for operation in operations:
        if operation.scope not in found and not isinstance(operation, op.RemoveStray):
            words.setdefault(operation.scope, []).append(operation.describe())
    return tuple(
        Drift(
            scope=scope,
            what=tuple(what),
            is_repaired=scope not in failures and scope not in rest,
            error=failures[scope].message if scope in failures else "",
        )
        for scope, what in words.items()
    )
