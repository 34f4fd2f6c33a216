"""Kills a process at every line of the code that changes a node's keys on disk, and looks at what it left each time.

    python killed_key_writer.py SCENARIO FOLDER

prints how many times it killed; fails when what is left is neither the state before nor the one after. A program of its own,
because it forks.
"""

import contextlib
import datetime
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pyswarm_common import pki
from pyswarm_common.errors import Unauthenticated
from pyswarm_common.unlock_key import new_unlock_key
from pyswarm_node.key_file import Secrets
from pyswarm_node.membership import MembershipStore

OLD_KEY, NEW_KEY = new_unlock_key(), new_unlock_key()
OLD_PEM, NEW_PEM = pki.new_private_key_pem(), pki.new_private_key_pem()
DATA_KEYS = b'{"active_id":1,"keys":{"1":"c2VjcmV0LWRhdGEta2V5"}}'
SECRET_BYTES = (b"PRIVATE KEY", b"c2VjcmV0LWRhdGEta2V5", b"SWMKEY")
TRACED = {"key_file.py", "files.py", "membership.py", "working_copy.py"}


@dataclass(frozen=True)
class Scenario:
    """A change. `before`: the unlock key at first, `after`: at last; data keys likewise."""

    before: str
    after: str
    change: Callable[[MembershipStore], None]
    data_keys_before: bytes = DATA_KEYS
    data_keys_after: bytes = DATA_KEYS
    is_former: bool = False


def certificate_of(key_pem: str) -> str:
    identity = pki.NodeIdentity(node_id="n", role="manager", cluster_id="c")
    now = datetime.datetime.now(datetime.UTC)
    return pki.sign_node_certificate(*ROOT, pki.new_signing_request(key_pem), identity, ("127.0.0.1",), now)


ROOT = pki.new_root(datetime.datetime.now(datetime.UTC))
OLD_CERTIFICATE, NEW_CERTIFICATE = certificate_of(OLD_PEM), certificate_of(NEW_PEM)


def renew(files: MembershipStore) -> None:
    files.save_certificate(root_pem=ROOT[0], certificate_pem=NEW_CERTIFICATE, key_pem=NEW_PEM)


SCENARIOS = {
    "lock": Scenario("", NEW_KEY, lambda files: files.change_lock(NEW_KEY)),
    "rotate": Scenario(OLD_KEY, NEW_KEY, lambda files: files.change_lock(NEW_KEY)),
    "open": Scenario(OLD_KEY, "", lambda files: files.change_lock("")),
    "enter": Scenario("", NEW_KEY, lambda files: files.save_data_keys(DATA_KEYS, NEW_KEY), data_keys_before=b""),
    "demote": Scenario(OLD_KEY, "", lambda files: files.forget_manager(), data_keys_after=b""),
    "renew": Scenario("", "", renew),
    "renew-locked": Scenario(OLD_KEY, OLD_KEY, renew),
    "take-over": Scenario("", "", lambda files: files.private_key() and None, is_former=True),
}


def prepare(folder: Path, scenario: Scenario) -> MembershipStore:
    """Make the state before, and return it as a daemon has it that has opened its keys."""
    shutil.rmtree(folder, ignore_errors=True)
    files = MembershipStore(folder / "data", folder / "run")
    files.change_lock(scenario.before)
    files.save_certificate(root_pem=ROOT[0], certificate_pem=OLD_CERTIFICATE, key_pem=OLD_PEM)
    if scenario.data_keys_before:
        files.save_data_keys(scenario.data_keys_before)
    if scenario.is_former:
        files.keys.remove()
        (files.certificates / "node.key").write_text(OLD_PEM)
        (files.folder / "data-keys.json").write_bytes(DATA_KEYS)
        return MembershipStore(folder / "data", folder / "run")
    return files


def check(folder: Path, scenario: Scenario) -> None:
    """Raise AssertionError unless a fresh daemon finds the state before or the one after."""
    data = folder / "data"
    if scenario.before and scenario.after:
        assert not in_clear_text(data), f"in clear text: {in_clear_text(data)}"
    files = MembershipStore(data, folder / "run")
    was_locked = files.is_locked
    for unlock_key in (scenario.before, scenario.after):
        if files.is_locked and unlock_key:
            with contextlib.suppress(Unauthenticated):
                files.unlock(unlock_key)
    secrets = files.keys.secrets
    if was_locked:
        assert not in_clear_text(data), f"locked, but in clear text: {in_clear_text(data)}"
    assert files.unlock_key in {scenario.before, scenario.after}
    assert secrets.data_keys in {scenario.data_keys_before, scenario.data_keys_after}
    if scenario.before != scenario.after and scenario.data_keys_before != scenario.data_keys_after:
        assert (files.unlock_key, secrets.data_keys) in {
            (scenario.before, scenario.data_keys_before),
            (scenario.after, scenario.data_keys_after),
        }
    key = load_pem_private_key(files.key_path.read_bytes(), password=None)
    assert key.public_key() == x509.load_pem_x509_certificate(files.certificate_path.read_bytes()).public_key()
    assert [path.name for path in data.rglob("*node-keys*")] == ["node-keys.json"]
    files.server_tls()


def in_clear_text(folder: Path) -> list[str]:
    """Return the files under the folder that show a secret."""
    plain = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in plain if any(secret in path.read_bytes() for secret in SECRET_BYTES)]


def killed_at(number: int, work: Callable[[], None]) -> bool:
    """Run `work` in a child that kills itself before its `number`-th line of the traced files; return whether it came that far."""
    child = os.fork()
    if child == 0:
        count = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal count
            if Path(frame.f_code.co_filename).name not in TRACED:
                return None
            if event == "line":
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 3)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise AssertionError("the change failed")
    return os.WIFSIGNALED(status)


def main(name: str, folder: Path) -> int:
    """Return the number of kills."""
    scenario, number = SCENARIOS[name], 0
    while True:
        number += 1
        files = prepare(folder, scenario)
        was_killed = killed_at(number, lambda files=files: scenario.change(files))  # type: ignore[misc]
        check(folder, scenario)
        if not was_killed:
            final = MembershipStore(folder / "data", folder / "run")
            assert final.is_locked == bool(scenario.after)
            if scenario.after:
                final.unlock(scenario.after)
            assert final.keys.secrets == Secrets(
                private_keys=(NEW_PEM if name.startswith("renew") else OLD_PEM,), data_keys=scenario.data_keys_after
            )
            assert not [name for name in ("certificates/node.key", "data-keys.json") if (final.folder / name).exists()]
            return number - 1


if __name__ == "__main__":
    print(main(sys.argv[1], Path(sys.argv[2])))
