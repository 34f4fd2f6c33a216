"""What a node remembers of its cluster, and what it is told at start."""

import base64
import datetime
from pathlib import Path

import msgspec
import pytest

from pyswarm_common import pki
from pyswarm_common.errors import Conflict, InvalidArgument, PyswarmError, Unauthenticated, Unavailable
from pyswarm_common.unlock_key import new_unlock_key
from pyswarm_common.wire import ManagerAddress
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_node.addresses import resolve_advertise_address, split_port
from pyswarm_node.config import DaemonConfig
from pyswarm_node.daemon import exclusive
from pyswarm_node.hardware import describe_resources
from pyswarm_node.main import parse_arguments
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
    files = MembershipStore(tmp_path, tmp_path / "run")
    assert files.load() is None
    files.save(MEMBERSHIP)
    assert MembershipStore(tmp_path, tmp_path / "run").load() == MEMBERSHIP
    files.private_key()
    files.forget()
    assert files.load() is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_damaged_membership_says_what_to_do(tmp_path: Path) -> None:
    files = MembershipStore(tmp_path, tmp_path / "run")
    files.save(MEMBERSHIP)
    (tmp_path / "swarm/state.json").write_text("{")
    with pytest.raises(PyswarmError, match="join again"):
        files.load()


def certified(files: MembershipStore, key_pem: str) -> str:
    """Save a certificate for this key; returns the certificate."""
    now = datetime.datetime.now(datetime.UTC)
    root_pem, root_key_pem = pki.new_root(now)
    identity = pki.NodeIdentity(node_id="n", role="manager", cluster_id="c")
    request = pki.new_signing_request(key_pem)
    certificate_pem = pki.sign_node_certificate(root_pem, root_key_pem, request, identity, ("127.0.0.1",), now)
    files.save_certificate(root_pem=root_pem, certificate_pem=certificate_pem, key_pem=key_pem)
    return certificate_pem


def files_with(folder: Path, secret: bytes) -> list[str]:
    return [path.name for path in sorted(folder.rglob("*")) if path.is_file() and secret in path.read_bytes()]


def test_keys_are_the_owners_alone(tmp_path: Path) -> None:
    files = MembershipStore(tmp_path / "data", tmp_path / "run")
    key = files.private_key()
    assert files.private_key() == key
    assert files_with(tmp_path / "data", b"PRIVATE KEY") == []
    certified(files, key)
    files.save_data_keys(b"keys")
    secret = [files.key_path, tmp_path / "data/swarm/certificates/node-keys.json"]
    assert [path.stat().st_mode & 0o777 for path in secret] == [0o600, 0o600]
    again = MembershipStore(tmp_path / "data", tmp_path / "run")
    assert (again.private_key(), again.load_data_keys(), again.key_path.read_text()) == (key, b"keys", key)


def test_locked_keys_are_nowhere_on_disk_and_a_file_for_programs_is_there_only_while_unlocked(tmp_path: Path) -> None:
    data, run, unlock_key = tmp_path / "data", tmp_path / "run", new_unlock_key()
    files = MembershipStore(data, run)
    key = files.private_key()
    certified(files, key)
    files.save_data_keys(b"keys", unlock_key)
    for secret in (b"PRIVATE KEY", b"keys", base64.b64encode(b"keys").rstrip(b"="), unlock_key.encode()):
        assert files_with(data, secret) == []
    files.server_tls()
    files.put_keys_away()
    assert files_with(tmp_path, b"PRIVATE KEY") == []

    restarted = MembershipStore(data, run)
    assert restarted.is_locked
    for use in (lambda: restarted.key_path, restarted.private_key, restarted.load_data_keys, restarted.server_tls):
        with pytest.raises(Unavailable, match="needs to be unlocked"):
            use()
    with pytest.raises(Unauthenticated):
        restarted.unlock(new_unlock_key())
    restarted.unlock(unlock_key)
    assert (restarted.private_key(), restarted.load_data_keys(), restarted.unlock_key) == (key, b"keys", unlock_key)
    assert restarted.key_path.read_text() == key
    restarted.server_tls()


def test_a_new_certificate_keeps_the_lock(tmp_path: Path) -> None:
    files, unlock_key = MembershipStore(tmp_path / "data", tmp_path / "run"), new_unlock_key()
    certified(files, files.private_key())
    files.save_data_keys(b"keys", unlock_key)
    renewed = pki.new_private_key_pem()
    certified(files, renewed)
    assert (files.private_key(), files.key_path.read_text(), files.load_data_keys()) == (renewed, renewed, b"keys")
    assert MembershipStore(tmp_path / "data", tmp_path / "run").is_locked
    assert files_with(tmp_path / "data", b"PRIVATE KEY") == []


def test_a_manager_that_becomes_a_worker_has_no_lock_and_no_data_keys(tmp_path: Path) -> None:
    files = MembershipStore(tmp_path / "data", tmp_path / "run")
    key = files.private_key()
    certified(files, key)
    files.save_data_keys(b"keys", new_unlock_key())
    files.forget_manager()
    worker = MembershipStore(tmp_path / "data", tmp_path / "run")
    assert (worker.is_locked, worker.private_key()) == (False, key)
    with pytest.raises(PyswarmError, match="lost the keys of its store"):
        worker.load_data_keys()


def test_a_locked_node_can_be_forgotten(tmp_path: Path) -> None:
    files = MembershipStore(tmp_path / "data", tmp_path / "run")
    key = files.private_key()
    certified(files, key)
    files.save_data_keys(b"keys", new_unlock_key())
    locked = MembershipStore(tmp_path / "data", tmp_path / "run")
    locked.forget()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not locked.is_locked
    assert locked.private_key() != key


def test_the_secrets_of_an_earlier_version_are_taken_over(tmp_path: Path) -> None:
    certificates = tmp_path / "data/swarm/certificates"
    certificates.mkdir(parents=True)
    (certificates / "node.key").write_text(key := pki.new_private_key_pem())
    (tmp_path / "data/swarm/data-keys.json").write_bytes(b"keys")
    files = MembershipStore(tmp_path / "data", tmp_path / "run")
    assert (files.is_locked, files.private_key(), files.load_data_keys()) == (False, key, b"keys")
    assert files_with(tmp_path / "data", b"PRIVATE KEY") == ["node-keys.json"]
    assert not (tmp_path / "data/swarm/data-keys.json").exists()


def test_data_keys_are_read_back() -> None:
    keys = DataKeys.generate().with_new_active_key()
    read = DataKeys.decode(keys.encode())
    assert (read.keys, read.active_id) == (keys.keys, keys.active_id)
    with pytest.raises(PyswarmError, match="data keys cannot be read"):
        DataKeys.decode(b"nonsense")


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


def test_generic_resources_are_declared_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = parse_arguments(["--generic-resource", "gpu=a", "--generic-resource", "ssd=4"])
    resources = describe_resources(config.generic_resources)
    assert list(msgspec.to_builtins(resources.generic_resources)) == [
        {"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}},
        {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 4}},
    ]
    assert resources.pids > 0
    with pytest.raises(SystemExit):
        parse_arguments(["--generic-resource", "gpu"])
    assert "expected KIND=NAME or KIND=NUMBER" in capsys.readouterr().err


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
    first.listen()
    port = first.getsockname()[1]
    with pytest.raises(Conflict, match=f"{port}: the port is taken"):
        bind_tcp(f"127.0.0.1:{port}")
    first.close()
    with pytest.raises(Conflict, match="no such address"):
        bind_tcp("192.0.2.77:0")


def test_unknown_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    files = MembershipStore(tmp_path, tmp_path / "run")
    files.save(MEMBERSHIP)
    path = tmp_path / "swarm/state.json"
    path.write_bytes(msgspec.json.encode({**msgspec.json.decode(path.read_bytes()), "future": 1}))
    assert files.load() == MEMBERSHIP
