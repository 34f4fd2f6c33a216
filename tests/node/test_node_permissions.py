"""What an operator allows on the command line is what the node tells of itself."""

import pytest

from pyswarm_common.objects import NodePermissions
from pyswarm_node.hardware import describe_node
from pyswarm_node.main import parse_arguments


def test_nothing_is_allowed_unless_said() -> None:
    config, _ = parse_arguments([])
    assert config.permissions == NodePermissions()


def test_permissions_reach_the_description() -> None:
    line = "--allow-privileged --allow-device /dev/kvm --allow-device /dev/dri/* --allow-cdi nvidia.com/gpu=*"
    config, _ = parse_arguments(line.split())
    expected = NodePermissions(allows_privileged=True, devices=("/dev/kvm", "/dev/dri/*"), cdi_devices=("nvidia.com/gpu=*",))
    assert config.permissions == expected
    described = describe_node(hostname="h", engine_version="1", data_path_address="", permissions=config.permissions)
    assert described.permissions == expected


def test_help_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--allow-privileged", "--allow-device", "--allow-cdi"))
