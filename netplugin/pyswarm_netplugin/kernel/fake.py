"""A kernel in memory: the effect of each operation on a `State`, with what must be there before.

It can stop in the middle of an operation (`execute(…, is_cut=True)`), leaving what a daemon killed at that moment leaves.
`tests/kernel/test_netplugin_contract.py` holds it against the real kernel.
"""

from collections.abc import Callable, Mapping
from typing import assert_never

import msgspec

from pyswarm_common.errors import FailedPrecondition
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.kernel.fake_mesh import after_mesh
from pyswarm_netplugin.kernel.interface import HostNetwork
from pyswarm_netplugin.naming import OVERLAY_PREFIX, SANDBOX_PREFIX
from pyswarm_netplugin.published_ports.rules import ports_mark
from pyswarm_netplugin.secure.records import Encryption, SecureNetwork
from pyswarm_netplugin.state import Egress, Link, Overlay, Sandbox, State, Stray, Tunnel

_CUT_TUNNEL = Tunnel(vni=0, port=0, local_address="", mtu_bytes=0)


class FakeKernel:
    """Holds a state. `refuse` may raise for an operation, as a kernel would."""

    def __init__(self, state: State | None = None, *, mtu_bytes: int = 1500, routes: tuple[str, ...] = ()) -> None:
        start = state or State()
        self.overlays = dict(start.overlays)
        self.sandboxes = dict(start.sandboxes)
        self.egress = start.egress
        self.strays = set(start.strays)
        self.ports_mark = start.ports_mark
        self.secure = start.secure
        self.encrypts = Encryption(kind="kernel")
        self.executed: list[op.Operation] = []
        self.refuse: Callable[[op.Operation], None] = lambda _: None
        self._host = HostNetwork(mtu_bytes=mtu_bytes, routes=routes)

    def close(self) -> None:
        """Let go; the state stays."""

    def inspector(self) -> None:
        """Return nothing: all that it holds is in its state."""

    def host_network(self, data_path_address: str) -> HostNetwork:
        """Return what it was made with."""
        return self._host

    def observe(self) -> State:
        """Return what stands."""
        return State(
            overlays=dict(self.overlays),
            sandboxes=dict(self.sandboxes),
            egress=self.egress,
            strays=frozenset(self.strays),
            ports_mark=self.ports_mark,
            secure=self.secure,
        )

    def encryption(self) -> Encryption:
        """Return what it was told, by default that it can."""
        return self.encrypts

    def execute(self, operation: op.Operation, *, is_cut: bool = False) -> None:
        """Carry an operation out, or the first half of it. Raises FileNotFoundError where something must be there and is not."""
        self.refuse(operation)
        self.executed.append(operation)
        match operation:
            case op.MakeSandbox() | op.RemoveSandbox() | op.Connect() | op.AdjustLink() | op.Disconnect() | op.ChangeBalancing():
                self._on_sandbox(operation, is_cut)
            case op.MakeOverlay() | op.RemoveOverlay() | op.MakeTunnel() | op.RemoveTunnel() | op.ResizeTunnel() | op.ChangePeers():
                self._on_overlay(operation, is_cut)
            case op.MakeEgress():
                self.egress = msgspec.structs.replace(operation.egress, has_rules=not is_cut)
            case op.RemoveEgress():
                self.egress = Egress(address="", mtu_bytes=0, has_rules=False) if is_cut else None
                self._unlink("")
            case op.ChangeReturns() | op.RemoveReturns() | op.ChangeMeshPorts():
                id_ = operation.sandbox_id
                self.sandboxes[id_] = after_mesh(self._sandbox(id_), operation, is_cut)
            case op.PublishPorts():
                self.ports_mark = self.ports_mark if is_cut else ports_mark(operation.forwards)
            case op.MakeSecure():
                if not self.encrypts.kind:
                    raise FailedPrecondition(f"encrypted overlays are not possible on this node: {self.encrypts.problem}")
                self.secure = SecureNetwork() if is_cut else operation.network
            case op.ChangeSecurePeers():
                self._change_secure_peers(operation, is_cut)
            case op.RemoveSecure():
                self.secure = SecureNetwork() if is_cut else None
            case op.RemoveStray():
                if not is_cut:
                    self.strays.discard(operation.stray)
            case _:
                assert_never(operation)

    def _change_secure_peers(self, operation: op.ChangeSecurePeers, is_cut: bool) -> None:
        if self.secure is None or not self.secure.public_key:
            raise FileNotFoundError("no WireGuard interface")
        added = dict(list(operation.add.items())[: len(operation.add) // 2]) if is_cut else operation.add
        gone = {*operation.remove, *(peer.public_key for peer in added.values())}  # a key that is set again is at another address
        peers = {a: peer for a, peer in self.secure.peers.items() if peer.public_key not in gone}
        self.secure = msgspec.structs.replace(self.secure, peers={**peers, **added})

    def _on_sandbox(
        self,
        operation: op.MakeSandbox | op.RemoveSandbox | op.Connect | op.AdjustLink | op.Disconnect | op.ChangeBalancing,
        is_cut: bool,
    ) -> None:
        id_ = operation.sandbox_id
        match operation:
            case op.MakeSandbox():
                self._file(SANDBOX_PREFIX + id_, is_there=is_cut)
                if not is_cut:
                    self.sandboxes.setdefault(id_, Sandbox())
            case op.RemoveSandbox():
                self.sandboxes.pop(id_, None)
                self._file(SANDBOX_PREFIX + id_, is_there=is_cut)
            case op.Connect():
                self._connect(operation, is_cut)
            case op.AdjustLink():
                self._adjust(operation, is_cut)
            case op.Disconnect():
                if not is_cut:
                    links = {name: link for name, link in self._sandbox(id_).links.items() if name != operation.interface}
                    self._replace_sandbox(id_, links=links)
            case op.ChangeBalancing():
                self._replace_sandbox(id_, chains=_balanced(self._sandbox(id_).chains, operation.balance, is_cut))

    def _connect(self, operation: op.Connect, is_cut: bool) -> None:
        link, sandbox = operation.link, self._sandbox(operation.sandbox_id)
        if operation.interface in sandbox.links:
            raise FileExistsError(f"{operation.interface} is there")
        if link.network_id and not self._overlay(link.network_id).has_bridge:
            raise FileNotFoundError(f"no bridge on {link.network_id}")
        if not link.network_id and (self.egress is None or not self.egress.address):
            raise FileNotFoundError("no egress bridge")
        made = Link(network_id=link.network_id, address="", mtu_bytes=link.mtu_bytes) if is_cut else link
        self._replace_sandbox(operation.sandbox_id, links={**sandbox.links, operation.interface: made})

    def _adjust(self, operation: op.AdjustLink, is_cut: bool) -> None:
        sandbox, link = self._sandbox(operation.sandbox_id), operation.link
        before = sandbox.links.get(operation.interface)
        if before is None:
            raise FileNotFoundError(f"no {operation.interface} in sandbox {operation.sandbox_id}")
        made = msgspec.structs.replace(before, mtu_bytes=link.mtu_bytes) if is_cut else link
        self._replace_sandbox(operation.sandbox_id, links={**sandbox.links, operation.interface: made})

    def _resize(self, operation: op.ResizeTunnel, is_cut: bool) -> None:
        overlay = self._overlay(operation.network_id)
        if overlay.tunnel is None:
            raise FileNotFoundError(f"no VXLAN device on {operation.network_id}")
        if not is_cut:
            tunnel = msgspec.structs.replace(overlay.tunnel, mtu_bytes=operation.mtu_bytes)
            self.overlays[operation.network_id] = msgspec.structs.replace(overlay, tunnel=tunnel)

    def _on_overlay(
        self,
        operation: op.MakeOverlay | op.RemoveOverlay | op.MakeTunnel | op.RemoveTunnel | op.ResizeTunnel | op.ChangePeers,
        is_cut: bool,
    ) -> None:
        id_ = operation.network_id
        match operation:
            case op.MakeOverlay():
                self._file(OVERLAY_PREFIX + id_, is_there=False)
                before = self.overlays.get(id_, Overlay())
                self.overlays[id_] = msgspec.structs.replace(before, has_bridge=before.has_bridge or not is_cut)
            case op.RemoveOverlay():
                self._unlink(id_)
                self.overlays.pop(id_, None)
                if is_cut:
                    self.overlays[id_] = Overlay()
            case op.MakeTunnel():
                tunnel = _CUT_TUNNEL if is_cut else operation.tunnel
                if not self._overlay(id_).has_bridge:
                    raise FileNotFoundError(f"no bridge on {id_}")
                self.overlays[id_] = msgspec.structs.replace(self._overlay(id_), tunnel=tunnel, peers={})
            case op.RemoveTunnel():
                if not is_cut:
                    self.overlays[id_] = msgspec.structs.replace(self._overlay(id_), tunnel=None, peers={})
            case op.ResizeTunnel():
                self._resize(operation, is_cut)
            case op.ChangePeers():
                if self._overlay(id_).tunnel is None:
                    raise FileNotFoundError(f"no VXLAN device on {id_}")
                peers = {a: host for a, host in self._overlay(id_).peers.items() if a not in operation.remove}
                added = dict(list(operation.add.items())[: len(operation.add) // 2]) if is_cut else operation.add
                self.overlays[id_] = msgspec.structs.replace(self._overlay(id_), peers={**peers, **added})

    def _sandbox(self, id_: str) -> Sandbox:
        if id_ not in self.sandboxes:
            raise FileNotFoundError(f"no namespace of sandbox {id_}")
        return self.sandboxes[id_]

    def _overlay(self, id_: str) -> Overlay:
        if id_ not in self.overlays:
            raise FileNotFoundError(f"no namespace of overlay {id_}")
        return self.overlays[id_]

    def _replace_sandbox(self, id_: str, **changes: object) -> None:
        self.sandboxes[id_] = msgspec.structs.replace(self._sandbox(id_), **changes)

    def _unlink(self, network_id: str) -> None:
        for id_, sandbox in list(self.sandboxes.items()):
            links = {name: link for name, link in sandbox.links.items() if link.network_id != network_id}
            self._replace_sandbox(id_, links=links)

    def _file(self, name: str, *, is_there: bool) -> None:
        stray = Stray(kind="file", name=name)
        self.strays.add(stray) if is_there else self.strays.discard(stray)


def _balanced(before: Mapping[str, str] | None, balance: op.Balance, is_cut: bool) -> dict[str, str]:
    chains = {} if balance.is_first else dict(before or {})
    put = balance.put[: len(balance.put) // 2] if is_cut else balance.put
    for virtual_ip, chain, _ in put:
        chains[virtual_ip] = chain
    for virtual_ip in () if is_cut else balance.drop:
        chains.pop(virtual_ip, None)
    return chains
