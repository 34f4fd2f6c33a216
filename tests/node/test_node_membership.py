"""What a node remembers of its cluster, and what it is told at start."""

from pathlib import Path

import msgspec
import pytest

from pyswarm_common.errors import Conflict, InvalidArgument, PyswarmError
from pyswarm_common.wire import ManagerAddress
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_node.addresses import resolve_advertise_address, split_port
from pyswarm_node.config import DaemonConfig
from pyswarm_node.daemon import exclusive
from pyswarm_node.main import parse_arguments
from pyswarm_node.manager_runner import decode_data_keys, encode_data_keys
from pyswarm_node.membership import Membership, MembershipStore
from pyswarm_node.serving import bind_tcp

MEMBERSHIP = Membership(
    node_id="n",
    cluster_id="c",
    role="worker",
    advertise_address="192.0.2.1",
    data_path_address="192.0.2.1",
    managers=(ManagerAddress(node_id="m", address="192.0.2.9:2377"),),
)


def test_a_membership_is_read_back(tmp_path: Path) -> None:
    files = MembershipStore(tmp_path)
    assert files.load() is None
    files.save(MEMBERSHIP)
    assert MembershipStore(tmp_path).load() == MEMBERSHIP
    files.forget()
    assert files.load() is None
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_membership_says_what_to_do(tmp_path: Path) -> None:
    files = MembershipStore(tmp_path)
    files.save(MEMBERSHIP)
    (tmp_path / "swarm/state.json").write_text("{")
    with pytest.raises(PyswarmError, match="join again"):
        files.load()


def test_keys_and_certificates_are_the_owners_alone(tmp_path: Path) -> None:
    files = MembershipStore(tmp_path)
    key = files.private_key()
    assert files.private_key() == key
    files.save_certificate(root_pem="root", certificate_pem="certificate", key_pem=key)
    files.save_data_keys(b"keys")
    secret = [files.key_path, tmp_path / "swarm/data-keys.json"]
    assert [path.stat().st_mode & 0o777 for path in secret] == [0o600, 0o600]


def test_data_keys_are_read_back() -> None:
    keys = DataKeys.generate().with_new_active_key()
    read = decode_data_keys(encode_data_keys(keys))
    assert (read.keys, read.active_id) == (keys.keys, keys.active_id)
    with pytest.raises(PyswarmError, match="data key file"):
        decode_data_keys(b"nonsense")


def test_a_runtime_directory_that_is_too_deep_is_refused_at_start() -> None:
    DaemonConfig().check()
    with pytest.raises(InvalidArgument, match="--runtime-dir"):
        DaemonConfig(runtime_dir=Path("/" + "x" * 100)).check()
    with pytest.raises(InvalidArgument, match="absolute"):
        DaemonConfig(data_dir=Path("here")).check()


def test_two_data_directories_have_two_instance_tags() -> None:
    tags = {DaemonConfig(data_dir=Path(f"/srv/{i}")).instance_tag for i in range(50)}
    assert len(tags) == 50
    assert all(len(tag) == 4 for tag in tags)


def test_options_of_the_command_line() -> None:
    config, level = parse_arguments(["--insecure-registry", "10.0.0.0/8", "--insecure-registry", "r:5000", "--hostname", "h"])
    assert (config.insecure_registries, config.hostname, level) == (("10.0.0.0/8", "r:5000"), "h", "info")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 2377)),
        ("192.0.2.1:99", ("192.0.2.1", 99)),
        ("host:99", ("host", 99)),
        ("[::1]:99", ("::1", 99)),
        ("::1", ("::1", 2377)),
    ],
)
def test_addresses_with_and_without_port(text: str, expected: tuple[str, int]) -> None:
    assert split_port(text) == expected


@pytest.mark.parametrize("text", ["192.0.2.1:", "192.0.2.1:x", "192.0.2.1:0", "192.0.2.1:70000"])
def test_bad_ports(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not an address"):
        split_port(text)


def test_an_interface_stands_for_its_address() -> None:
    assert resolve_advertise_address("lo", "tag0") == "127.0.0.1"
    assert resolve_advertise_address("192.0.2.7:2377", "tag0") == "192.0.2.7"
    with pytest.raises(InvalidArgument, match="neither an address nor an interface"):
        resolve_advertise_address("nosuch0", "tag0")


def test_a_data_directory_serves_one_daemon(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock"), pytest.raises(Conflict, match="--data-dir"), exclusive(tmp_path / "lock"):
        pass
    with exclusive(tmp_path / "lock"):
        pass


def test_a_port_that_is_taken_says_so() -> None:
    first = bind_tcp("127.0.0.1:0")
    port = first.getsockname()[1]
    with pytest.raises(Conflict, match=f"{port}: the port is taken"):
        bind_tcp(f"127.0.0.1:{port}")
    first.close()
    with pytest.raises(Conflict, match="no such address"):
        bind_tcp("192.0.2.77:0")


def test_unknown_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    files = MembershipStore(tmp_path)
    files.save(MEMBERSHIP)
    path = tmp_path / "swarm/state.json"
    path.write_bytes(msgspec.json.encode({**msgspec.json.decode(path.read_bytes()), "future": 1}))
    assert files.load() == MEMBERSHIP
