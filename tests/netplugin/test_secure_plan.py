"""The plan of encryption: nothing for what stands, and everything else converges from wherever a killed daemon left it."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common.wire import NetworkView, NodeKey
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.apply import carry_out
from pyswarm_netplugin.kernel.fake import FakeKernel
from pyswarm_netplugin.plan import describe, plan
from pyswarm_netplugin.secure.desired import SecureSettings, secure_network
from pyswarm_netplugin.secure.records import Secret, SecureKeys, SecureNetwork, SecurePeer, preshared_mark
from pyswarm_netplugin.state import Overlay, State, Tunnel

KEYS = SecureKeys(private=Secret("private"), preshared=Secret("shared"))
OWN = "192.0.2.1"
SETTINGS = SecureSettings(address=OWN, port=51820, public_key="own", underlay_mtu_bytes=1500, keys=KEYS)

peers = st.builds(
    SecurePeer, public_key=st.sampled_from("abcd"), port=st.sampled_from([1, 2]), preshared_mark=st.sampled_from(["", "x"])
)
networks = st.none() | st.builds(
    SecureNetwork,
    address=st.just(OWN),
    port=st.sampled_from([1, 2]),
    public_key=st.sampled_from(["", "own"]),
    mtu_bytes=st.just(1420),
    peers=st.dictionaries(st.sampled_from(["192.0.2.2", "192.0.2.3", "?"]), peers, max_size=3).filter(
        lambda found: len({peer.public_key for peer in found.values()}) == len(found)
    ),
)
whole = networks.filter(lambda network: network is None or bool(network.public_key))


def view(name: str, keys: dict[str, NodeKey], *, is_encrypted: bool = True) -> NetworkView:
    return NetworkView(
        network_id=name, name=name, version=1, vni=1, subnet="", gateway="", is_encrypted=is_encrypted, node_keys=keys
    )


def state(network: SecureNetwork | None) -> State:
    return State(secure=network, secure_keys=KEYS)


def overlay(*, is_encrypted: bool) -> State:
    tunnel = Tunnel(vni=1, port=4789, local_address=OWN, mtu_bytes=1370, is_encrypted=is_encrypted)
    secure = SecureNetwork(address=OWN, port=1, public_key="own", mtu_bytes=1420) if is_encrypted else None
    return State(overlays={"n": Overlay(has_bridge=True, tunnel=tunnel)}, secure=secure, secure_keys=KEYS)


@given(whole)
def test_what_stands_needs_nothing(network: SecureNetwork | None) -> None:
    assert plan(state(network), state(network)) == ()
    if network is not None:  # also when it was read anew
        copied = msgspec.structs.replace(network, peers=dict(network.peers))
        assert plan(state(network), state(copied)) == ()


@given(whole, networks, st.integers(0, 3), st.booleans())
def test_it_converges_from_anywhere(wanted: SecureNetwork | None, seen: SecureNetwork | None, steps: int, is_cut: bool) -> None:
    kernel = FakeKernel(State(secure=seen))
    done = plan(state(wanted), kernel.observe())
    for operation in done[:steps]:
        kernel.execute(operation)
    for operation in done[steps : steps + is_cut]:
        kernel.execute(operation, is_cut=True)
    for operation in plan(state(wanted), kernel.observe()):
        kernel.execute(operation)
    assert kernel.observe().secure == wanted


def test_every_node_of_an_encrypted_network_is_a_peer() -> None:
    second, third = NodeKey(public_key="second", port=51820), NodeKey(public_key="third", port=51821)
    views = [
        view("a", {OWN: NodeKey(public_key="own", port=1), "192.0.2.2": second}),
        view("b", {"192.0.2.3": third}),
        view("c", {"192.0.2.4": third}, is_encrypted=False),
    ]
    made = secure_network(SETTINGS, views)
    mark = preshared_mark("shared")
    assert made == SecureNetwork(
        address=OWN,
        port=51820,
        public_key="own",
        mtu_bytes=1420,
        peers={
            "192.0.2.2": SecurePeer(public_key="second", port=51820, preshared_mark=mark),
            "192.0.2.3": SecurePeer(public_key="third", port=51821, preshared_mark=mark),
        },
    )
    assert secure_network(SETTINGS, [views[2]]) is None


def test_encryption_comes_before_tunnels_and_goes_after_them() -> None:
    encrypted, plain = overlay(is_encrypted=True), overlay(is_encrypted=False)
    kinds = [type(operation) for operation in plan(encrypted, State())]
    assert kinds == [op.MakeSecure, op.MakeOverlay, op.MakeTunnel]
    assert [type(operation) for operation in plan(State(), encrypted)] == [op.RemoveOverlay, op.RemoveSecure]
    assert [type(operation) for operation in plan(plain, encrypted)] == [op.RemoveTunnel, op.RemoveSecure, op.MakeTunnel]
    assert [type(operation) for operation in plan(encrypted, plain)] == [op.RemoveTunnel, op.MakeSecure, op.MakeTunnel]


def test_without_encryption_no_tunnel_is_made() -> None:
    kernel = FakeKernel()

    def refuse(operation: op.Operation) -> None:
        if isinstance(operation, op.MakeSecure):
            raise OSError(95, "no WireGuard")

    kernel.refuse = refuse
    failures = carry_out(kernel, plan(overlay(is_encrypted=True), State()))
    assert set(failures) == {"encryption", "overlay n"}
    assert kernel.overlays["n"].tunnel is None


def test_no_secret_is_in_a_plan() -> None:
    wanted = SecureNetwork(
        address=OWN, port=1, public_key="own", mtu_bytes=1420, peers={"192.0.2.2": SecurePeer(public_key="b", port=2)}
    )
    secret = SecureKeys(private=Secret("TOPSECRET"), preshared=Secret("TOPSECRET"))
    operations = plan(State(secure=wanted, secure_keys=secret), State())
    assert len(operations) == 2
    assert "TOPSECRET" not in f"{operations!r} {describe(operations)}"
