"""The file with a node's secrets: plain, locked, under another key, and back."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm_common.errors import InvalidArgument, PyswarmError, Unauthenticated, Unavailable
from pyswarm_common.pki import new_private_key_pem
from pyswarm_common.unlock_key import new_unlock_key
from pyswarm_node.key_file import KeyFile, Secrets

SECRETS = Secrets(private_keys=(new_private_key_pem(),), data_keys=b'{"keys":{"1":"c2VjcmV0"}}')


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "keys.json"
    assert [file for file in tmp_path.iterdir() if file.name != "keys.json"] == []


def test_without_a_file_there_is_nothing_and_nothing_is_locked(path: Path) -> None:
    file = KeyFile(path)
    assert (file.secrets, file.is_locked, file.unlock_key, file.exists) == (Secrets(), False, "", False)


def test_plain_secrets_are_read_back_by_anyone_with_the_file_which_is_the_owners_alone(path: Path) -> None:
    KeyFile(path).write(SECRETS, "")
    file = KeyFile(path)
    assert (file.is_locked, file.secrets, file.unlock_key) == (False, SECRETS, "")
    assert path.stat().st_mode & 0o777 == 0o600


def test_locked_secrets_open_with_their_key_only(path: Path) -> None:
    key = new_unlock_key()
    KeyFile(path).write(SECRETS, key)
    file = KeyFile(path)
    assert file.is_locked
    with pytest.raises(Unavailable, match="Swarm is encrypted and needs to be unlocked"):
        _ = file.secrets
    with pytest.raises(Unauthenticated, match="swarm could not be unlocked: invalid key provided"):
        file.unlock(new_unlock_key())
    with pytest.raises(InvalidArgument, match="invalid key string"):
        file.unlock("nonsense")
    assert file.is_locked
    file.unlock(f" {key}\n")
    assert (file.is_locked, file.secrets, file.unlock_key) == (False, SECRETS, key)


def test_a_locked_file_shows_nothing(path: Path) -> None:
    KeyFile(path).write(SECRETS, new_unlock_key())
    content = path.read_bytes()
    for secret in (b"PRIVATE KEY", b"c2VjcmV0", SECRETS.private_keys[0].splitlines()[1].encode(), b"SWMKEY"):
        assert secret not in content


def test_the_same_secrets_never_look_the_same_twice(path: Path) -> None:
    file, key = KeyFile(path), new_unlock_key()
    contents = set()
    for _ in range(20):
        file.write(SECRETS, key)
        found = msgspec.json.decode(path.read_bytes())
        contents |= {found["salt"], found["nonce"], found["sealed"]}
    assert len(contents) == 60


def test_what_is_locked_cannot_be_replaced_by_one_who_has_no_key(path: Path) -> None:
    KeyFile(path).write(SECRETS, new_unlock_key())
    before = path.read_bytes()
    for attempt in (lambda f: f.write(Secrets(), ""), lambda f: f.change_lock("")):
        with pytest.raises(Unavailable):
            attempt(KeyFile(path))
    assert path.read_bytes() == before


def test_a_changed_file_is_not_opened(path: Path) -> None:
    key = new_unlock_key()
    KeyFile(path).write(SECRETS, key)
    content = msgspec.json.decode(path.read_bytes())
    sealed = bytearray(content["sealed"].encode())
    sealed[10] = ord("A") if sealed[10] != ord("A") else ord("B")
    path.write_bytes(msgspec.json.encode({**content, "sealed": sealed.decode()}))
    with pytest.raises(Unauthenticated):
        KeyFile(path).unlock(key)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"form":"plain"}', b'{"form":"other"}'])
def test_a_damaged_file_says_what_to_do_and_is_not_called_locked(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    file = KeyFile(path)
    assert not file.is_locked
    with pytest.raises(PyswarmError, match="join again"):
        _ = file.secrets


def test_a_lock_that_is_set_before_there_is_a_file_holds_for_the_first_writing(path: Path) -> None:
    file, key = KeyFile(path), new_unlock_key()
    file.change_lock(key)
    assert not path.exists()
    file.write(SECRETS, file.unlock_key)
    assert KeyFile(path).is_locked


def test_removed_is_removed(path: Path) -> None:
    file = KeyFile(path)
    file.write(SECRETS, new_unlock_key())
    file.remove()
    assert (path.exists(), file.secrets, file.unlock_key) == (False, Secrets(), "")


LOCKS = ("", new_unlock_key(), new_unlock_key())


@settings(max_examples=30, deadline=None)
@given(locks=st.lists(st.sampled_from(LOCKS), min_size=1, max_size=6))
def test_through_any_changes_the_last_lock_counts_and_the_secrets_stay(
    tmp_path_factory: pytest.TempPathFactory, locks: list[str]
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    file = KeyFile(path)
    file.write(SECRETS, "")
    for lock in locks:
        file.change_lock(lock)
        assert file.secrets == SECRETS
    read = KeyFile(path)
    assert read.is_locked == bool(locks[-1])
    for lock in set(LOCKS) - {"", locks[-1]}:
        if read.is_locked:
            with pytest.raises(Unauthenticated):
                read.unlock(lock)
    if locks[-1]:
        read.unlock(locks[-1])
    assert read.secrets == SECRETS
