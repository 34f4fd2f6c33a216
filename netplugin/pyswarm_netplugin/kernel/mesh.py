"""Sandboxes' part in the routing mesh, carried out and read back. The calling thread is in the sandbox's namespace."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, assert_never

from pyswarm_netplugin import operations as op
from pyswarm_netplugin.kernel import mesh_ports, returns
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NetlinkSocket
from pyswarm_netplugin.mesh.records import MESH_SANDBOX_ID, ReturnRoutes

MeshOperation: TypeAlias = op.ChangeReturns | op.RemoveReturns | op.ChangeMeshPorts
_SYSCTL = Path("/proc/sys/net")
_IP_FORWARD = _SYSCTL / "ipv4/ip_forward"


def execute(netlink: NetlinkSocket, operation: MeshOperation) -> None:
    """Carry an operation out; `netlink` is a netfilter socket of the namespace. Raises OSError."""
    match operation:
        case op.ChangeReturns():
            returns.change_returns(netlink, operation)
        case op.RemoveReturns():
            returns.remove_returns(netlink, operation.gateways)
        case op.ChangeMeshPorts():
            if operation.change.is_first:
                for name, value in mesh_ports.SYSCTLS.items():
                    with contextlib.suppress(FileNotFoundError):
                        (_SYSCTL / name).write_text(value)
            mesh_ports.change_mesh(netlink, operation.change)
        case _:
            assert_never(operation)


def observe(sandbox_id: str, indices: Mapping[str, int]) -> tuple[ReturnRoutes | None, Mapping[str, str] | None]:
    """Return the sandbox's ways back and, of the mesh sandbox, its ports. `indices`: of the interfaces, by name. Raises OSError."""
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        if sandbox_id == MESH_SANDBOX_ID:
            return None, mesh_ports.read_mesh(netlink) if _IP_FORWARD.read_text().strip() == "1" else None
        return returns.read_returns(netlink, indices), None
