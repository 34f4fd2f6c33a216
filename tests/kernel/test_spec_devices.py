"""Devices by path and by the Container Device Interface, used from inside."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from runtime_harness import RuntimeNode

from pyswarm_agent.runtime import cdi_files
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_agent.runtime.records import DeviceConfig
from pyswarm_common.errors import InvalidArgument

pytestmark = pytest.mark.kernel

CANDIDATES = ("/dev/fuse", "/dev/net/tun", "/dev/loop-control", "/dev/hwrng")
HOST_DEVICE = next(path for path in CANDIDATES if os.access(path, os.R_OK))
"""One that containers do not get, and that needs no capability to be opened."""


async def test_device_by_path(node: RuntimeNode) -> None:
    device = DeviceConfig(source=HOST_DEVICE, target="/dev/given", access="r")
    script = "ls -l /dev/given; exec 3< /dev/given && echo read; exec 4>> /dev/given && echo written"
    _, output = await node.run(script, devices=(device,))
    assert output.startswith("crw")
    assert "read" in output.splitlines()
    assert "written" not in output.splitlines()
    assert "Operation not permitted" in output


async def test_folder_of_devices(node: RuntimeNode) -> None:
    folder = next(path for path in sorted(Path("/dev").iterdir()) if _is_folder(path) and any(map(_is_device, path.iterdir())))
    device = DeviceConfig(source=str(folder), target="/dev/all")
    _, output = await node.run("ls /dev/all", devices=(device,))
    assert set(output.split()) == {path.name for path in folder.iterdir() if _is_device(path)}


@pytest.mark.parametrize(
    ("source", "words"),
    [("/dev/none", "no such file or directory; load its driver"), ("/etc/passwd", "not a device node; give the path")],
)
async def test_devices_that_are_none(node: RuntimeNode, source: str, words: str) -> None:
    config = node.config("true", devices=(DeviceConfig(source=source, target="/dev/x"),))
    await node.runtime.create(config)
    with pytest.raises(InvalidArgument, match=f'error gathering device information while adding custom device "{source}": {words}'):
        await node.runtime.start_container(config.id)


@pytest.fixture
def cdi_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The folders in which devices are described."""
    folders = tmp_path / "etc-cdi", tmp_path / "run-cdi"
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(cdi_files.read_folders, "__defaults__", (folders,))
    return folders


def described(tmp_path: Path) -> dict[str, Any]:
    """A device with everything that a description can have."""
    library, trace = tmp_path / "library", tmp_path / "trace"
    library.write_text("the library")
    hook = {"hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", f"cat > {trace}"]}
    edits = {
        "deviceNodes": [{"path": "/dev/card", "hostPath": HOST_DEVICE, "permissions": "r"}],
        "mounts": [{"hostPath": str(library), "containerPath": "/lib-of-card", "options": ["ro", "bind"]}],
        "hooks": [hook],
    }
    return {
        "cdiVersion": "0.6.0",
        "kind": "vendor.com/card",
        "devices": [{"name": "0", "containerEdits": edits}],
        "containerEdits": {"env": ["CARD=0", "PATH=/bin:/card"]},
    }


async def test_cdi_device_in_json(node: RuntimeNode, cdi_folders: tuple[Path, Path], tmp_path: Path) -> None:
    (cdi_folders[0] / "vendor.json").write_text(json.dumps(described(tmp_path)))
    script = "echo $CARD $PATH; cat /lib-of-card; echo; exec 3< /dev/card && echo read; touch /lib-of-card"
    _, output = await node.run(script, cdi_devices=("vendor.com/card=0",))
    assert output.splitlines()[:3] == ["0 /bin:/card", "the library", "read"]
    assert "Read-only file system" in output
    state = json.loads((tmp_path / "trace").read_text())
    assert state["status"] in ("created", "creating")


YAML = """
cdiVersion: "0.5.0"
kind: vendor.com/net
devices:
  - name: tun
    containerEdits:
      env: [TUN=yes]
      deviceNodes:
        - {path: /dev/tun, type: c, major: 10, minor: 200, fileMode: 384, uid: 33}
"""


async def test_cdi_device_in_yaml(node: RuntimeNode, cdi_folders: tuple[Path, Path]) -> None:
    (cdi_folders[0] / "broken.yaml").write_text("kind: [")
    (cdi_folders[1] / "vendor.yaml").write_text(YAML)
    _, output = await node.run("echo $TUN; stat -c '%a %u %t %T' /dev/tun", cdi_devices=("vendor.com/net=tun",))
    assert output.splitlines() == ["yes", "600 33 a c8"]


async def test_unknown_cdi_device(node: RuntimeNode, cdi_folders: tuple[Path, Path]) -> None:
    config = node.config("true", cdi_devices=("vendor.com/card=7",))
    await node.runtime.create(config)
    with pytest.raises((InvalidArgument, ContainerStartFailed), match=r"unresolvable CDI devices vendor\.com/card=7"):
        await node.runtime.start_container(config.id)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and path.name not in ("shm", "pts", "mqueue")


def _is_device(path: Path) -> bool:
    return path.is_char_device() or path.is_block_device()
