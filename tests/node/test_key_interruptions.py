"""A node that is killed while its keys change has the old state or the new one; on a full disk it keeps the old one."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

PROGRAM = Path(__file__).with_name("killed_key_writer.py")
IN_MEMORY = Path("/dev/shm")
SCENARIOS = ("lock", "rotate", "open", "enter", "demote", "renew", "renew-locked", "take-over")
ON_A_FULL_DISK = """
import errno, sys
from pathlib import Path
from pyswarm_common.unlock_key import new_unlock_key
from pyswarm_node.key_file import KeyFile, Secrets

disk = Path(sys.argv[1])
secrets, first = Secrets(private_keys=("PRIVATE KEY",), data_keys=bytes(2000)), new_unlock_key()
file = KeyFile(disk / "keys.json")
file.write(secrets, first)
filler = (disk / "filler").open("wb", buffering=0)
try:
    while True:
        filler.write(bytes(4096))
except OSError as error:
    assert error.errno == errno.ENOSPC
for lock in (new_unlock_key(), ""):
    try:
        file.change_lock(lock)
    except OSError as error:
        assert error.errno == errno.ENOSPC
    else:
        raise AssertionError("it fitted")
    assert (file.unlock_key, file.secrets) == (first, secrets)
assert sorted(path.name for path in disk.iterdir()) == ["filler", "keys.json"]
fresh = KeyFile(disk / "keys.json")
fresh.unlock(first)
assert fresh.secrets == secrets
(disk / "filler").unlink()
filler.close()
file.change_lock("")
assert KeyFile(disk / "keys.json").secrets == secrets
"""


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_any_line_it_has_the_old_state_or_the_new_one(scenario: str) -> None:
    with TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        done = subprocess.run([sys.executable, PROGRAM, scenario, folder + "/node"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 30


@pytest.mark.kernel
def test_on_a_full_disk_it_keeps_what_it_has(tmp_path: Path) -> None:
    script = tmp_path / "fill.py"
    script.write_text(ON_A_FULL_DISK)
    (disk := tmp_path / "disk").mkdir()
    command = f"mount -t tmpfs -o size=64k none {disk} && exec {sys.executable} {script} {disk}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
