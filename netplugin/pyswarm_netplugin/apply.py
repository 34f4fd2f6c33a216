"""Carries a plan out on a kernel: every part for itself, so that one network that fails takes no other with it."""

from collections.abc import Iterable

from pyswarm_common.errors import PyswarmError, Unavailable
from pyswarm_netplugin.kernel.interface import Kernel
from pyswarm_netplugin.operations import Operation, needs_of


def carry_out(kernel: Kernel, operations: Iterable[Operation]) -> dict[str, PyswarmError]:
    """Carry the operations out in order and return, by scope, why some failed.

    What needs a failed scope is left out, and its own scope fails for the same reason.
    """
    failures: dict[str, PyswarmError] = {}
    for operation in operations:
        broken = next((scope for scope in needs_of(operation) if scope in failures), None)
        if broken is not None:
            failures.setdefault(operation.scope, failures[broken])
            continue
        try:
            kernel.execute(operation)
        except PyswarmError as error:
            failures[operation.scope] = error
        except OSError as error:
            failures[operation.scope] = Unavailable(f"{operation.describe()}: {error.strerror or error}")
    return failures
