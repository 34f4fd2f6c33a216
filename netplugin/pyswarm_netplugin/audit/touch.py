"""Which facts an operation of the driver changes by itself, so that the audit takes them as they are; pure."""

from collections.abc import Iterable

from pyswarm_netplugin import operations as op
from pyswarm_netplugin.audit.facts import KINDS, NEIGHBOUR, ROUTE, RULE, SETTING, TABLE

EVERY_OVERLAY = "every overlay"
"""Stands for all overlays: a sandbox's change may reach into those that it is on."""

_PLAIN = {
    op.ChangePeers: frozenset({NEIGHBOUR}),
    op.ChangeBalancing: frozenset({TABLE}),
    op.ChangeReturns: frozenset({TABLE, ROUTE, RULE}),
    op.ChangeMeshPorts: frozenset({TABLE, SETTING}),
}
_NEW_LINKS_ONLY = (op.MakeSandbox, op.RemoveSandbox, op.Disconnect, op.Connect)
"""What they do in an overlay is seen by the interface that is new or gone."""


def touched_by(operations: Iterable[op.Operation]) -> dict[str, frozenset[str]]:
    """Return, by scope, the kinds of facts that these operations may have changed."""
    touched: dict[str, frozenset[str]] = {}
    for operation in operations:
        kinds = _PLAIN.get(type(operation), KINDS)  # what an operation that is not named here changes, is everything
        _add(touched, operation.scope, kinds)
        if isinstance(operation, op.PublishPorts):
            _add(touched, op.HOST_SCOPE, KINDS)
        is_wide = isinstance(operation, op.SandboxOperation) and not isinstance(operation, _NEW_LINKS_ONLY)
        if is_wide and type(operation) not in _PLAIN:
            _add(touched, EVERY_OVERLAY, KINDS)
            _add(touched, op.HOST_SCOPE, KINDS)
    return touched


def merged(first: dict[str, frozenset[str]], second: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Return both together."""
    result = dict(first)
    for scope, kinds in second.items():
        _add(result, scope, kinds)
    return result


def kinds_of(touched: dict[str, frozenset[str]], scope: str) -> frozenset[str]:
    """Return the kinds of facts that were touched in a scope."""
    wide = touched.get(EVERY_OVERLAY, frozenset()) if scope.startswith("overlay ") else frozenset()
    return touched.get(scope, frozenset()) | wide


def _add(touched: dict[str, frozenset[str]], scope: str, kinds: frozenset[str]) -> None:
    touched[scope] = touched.get(scope, frozenset()) | kinds
