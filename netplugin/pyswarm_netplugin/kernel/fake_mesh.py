"""The effect of the routing mesh's operations on a sandbox in memory; for `fake.FakeKernel`."""

from typing import assert_never

import msgspec

from pyswarm_netplugin import operations as op
from pyswarm_netplugin.kernel.mesh import MeshOperation
from pyswarm_netplugin.state import Sandbox


def after_mesh(sandbox: Sandbox, operation: MeshOperation, is_cut: bool) -> Sandbox:
    """Return the sandbox after an operation, or after its first half. Raises FileNotFoundError without the interface."""
    match operation:
        case op.ChangeReturns():
            return _returning(sandbox, operation, is_cut)
        case op.RemoveReturns():
            return sandbox if is_cut else msgspec.structs.replace(sandbox, returns=None)
        case op.ChangeMeshPorts():
            change = operation.change
            ports = {} if change.is_first else dict(sandbox.mesh_ports or {})
            for chain, balancer in change.put[: len(change.put) // 2] if is_cut else change.put:
                ports[balancer.key] = chain
            for port in () if is_cut else change.drop:
                ports.pop(port, None)
            return msgspec.structs.replace(sandbox, mesh_ports=ports)
        case _:
            assert_never(operation)


def _returning(sandbox: Sandbox, operation: op.ChangeReturns, is_cut: bool) -> Sandbox:
    goal = operation.returns
    if goal.interface not in sandbox.links:
        raise FileNotFoundError(f"no interface {goal.interface}")
    if not is_cut:
        return msgspec.structs.replace(sandbox, returns=goal)
    before = {} if operation.is_first or sandbox.returns is None else sandbox.returns.gateways
    return msgspec.structs.replace(
        sandbox, returns=msgspec.structs.replace(goal, gateways={**before, **dict.fromkeys(operation.add, "")})
    )
