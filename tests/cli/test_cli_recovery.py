"""`pyswarm swarm backup` and `restore` against the real API."""

import io
import json
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import Result

from pyswarm_cli.swarm.recovery import _receive, advice
from pyswarm_manager.recovery.backup_format import read_backup
from pyswarm_manager.store.store import Store
from pyswarm_node.api.fake_control import FakeNodeControl

Run = Callable[..., Awaitable[Result]]
UNLOCK_KEY = "SWMKEY-1-WuYH/IX284+lRcXuoVf38viIDK3HJEKY13MIHX+tTt8"


async def locked(store: Store) -> None:
    await store.update(lambda tx: tx.update(msgspec.structs.replace(tx.cluster, unlock_key=UNLOCK_KEY)))


async def test_a_backup_is_a_file_for_its_owner_alone(pyswarm: Run, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    result = await pyswarm("swarm", "backup", str(file))
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    backup = read_backup(file.read_bytes())
    assert backup.cluster == store.view.cluster
    assert "2 nodes, 0 services, 0 tasks" in result.output
    assert "It is not encrypted and holds the key of the CA" in result.output
    assert [path for path in tmp_path.iterdir() if "backup" in path.name] == [file]


async def test_a_backup_of_a_locked_swarm_is_encrypted(pyswarm: Run, store: Store, tmp_path: Path) -> None:
    await locked(store)
    result = await pyswarm("swarm", "backup", str(tmp_path / "backup"))
    assert "encrypted under the swarm's unlock key" in result.output
    assert "not encrypted" not in result.output
    assert read_backup((tmp_path / "backup").read_bytes(), UNLOCK_KEY).cluster == store.view.cluster


async def test_a_file_is_replaced_when_asked_only(pyswarm: Run, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    file.write_text("precious")
    refused = await pyswarm("swarm", "backup", str(file))
    assert refused.exit_code == 1
    assert "exists: choose another name, or say --force" in refused.stderr
    assert file.read_text() == "precious"
    assert (await pyswarm("swarm", "backup", "--force", str(file))).exit_code == 0
    assert read_backup(file.read_bytes()).objects


async def test_a_folder_that_is_not_there_is_named(pyswarm: Run, tmp_path: Path) -> None:
    result = await pyswarm("swarm", "backup", str(tmp_path / "missing" / "backup"))
    assert result.exit_code == 1
    assert "cannot be written: No such file or directory" in result.stderr


async def test_a_worker_makes_no_backup(pyswarm: Run, control: FakeNodeControl, tmp_path: Path) -> None:
    control.manager = None
    control.local = replace(control.local, is_manager=False)
    result = await pyswarm("swarm", "backup", str(tmp_path / "backup"))
    assert result.exit_code == 1
    assert "This node is not a swarm manager" in result.stderr
    assert not [path for path in tmp_path.iterdir() if "backup" in path.name]


async def test_a_backup_that_does_not_arrive_whole_is_no_backup(pyswarm: Run, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    await pyswarm("swarm", "backup", str(file))
    whole = file.read_bytes()
    target = io.BytesIO()
    size_bytes, header = _receive(io.BytesIO(whole), target)  # type: ignore[arg-type]
    assert (size_bytes, target.getvalue()) == (len(whole), whole)
    assert header["format"] == "pyswarm-backup"
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        with pytest.raises(click.ClickException, match="did not arrive whole"):
            _receive(io.BytesIO(whole[:length]), io.BytesIO())  # type: ignore[arg-type]


async def test_restore_sends_the_backup_with_addresses_and_key(
    pyswarm: Run, control: FakeNodeControl, store: Store, tmp_path: Path
) -> None:
    await locked(store)
    file = tmp_path / "backup"
    await pyswarm("swarm", "backup", str(file))
    refused = await pyswarm("swarm", "restore", str(file), "--unlock-key", UNLOCK_KEY)
    assert refused.exit_code == 1
    assert "This node is already part of a swarm" in refused.stderr
    control.local = replace(control.local, swarm_state="inactive")
    result = await pyswarm("swarm", "restore", str(file), "--advertise-addr", "10.0.0.1", input=f"{UNLOCK_KEY}\n".encode())
    assert result.exit_code == 0, result.output
    assert "Unlock key of when it was taken" in result.output
    assert "Swarm restored: this node" in result.output
    what, (sent, addresses, key) = control.requests[-1]
    assert (what, sent, key) == ("restore", file.read_bytes(), UNLOCK_KEY)
    assert addresses == {"AdvertiseAddr": "10.0.0.1", "ListenAddr": "0.0.0.0:2377"}


async def test_another_file_is_not_sent(pyswarm: Run, control: FakeNodeControl, tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_text(json.dumps({"format": "something"}))
    result = await pyswarm("swarm", "restore", str(file))
    assert result.exit_code == 1
    assert "is no backup of a swarm" in result.stderr
    assert not control.requests


def test_the_advice_says_whether_workers_come_back_by_themselves() -> None:
    answer: dict[str, Any] = {"NodeID": "n", "NodeAddr": "10.0.0.9:2377", "FormerManagers": ["10.0.0.1", "10.0.0.2"]}
    assert "workers do not find this one" in advice(answer)
    assert "10.0.0.1, 10.0.0.2" in advice(answer)
    assert "come back by themselves" in advice({**answer, "FormerManagers": ["10.0.0.9"]})
    assert "come back by themselves" in advice({**answer, "NodeAddr": "[fd00::1]:2377", "FormerManagers": ["fd00::1"]})
