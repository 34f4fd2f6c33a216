"""What containers ask of their machines by labels, and what operators allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common.container_settings import check_sysctl, check_ulimit
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.host_access import DeviceRequest, HostAccess, host_access, parse_device, refusals
from pyswarm_common.objects import NodePermissions


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("/dev/a", DeviceRequest("/dev/a", "/dev/a", "rwm")),
        ("/dev/a:rw", DeviceRequest("/dev/a", "/dev/a", "rw")),
        ("/dev/a:/dev/b", DeviceRequest("/dev/a", "/dev/b", "rwm")),
        ("/dev/a:/dev/b:mr", DeviceRequest("/dev/a", "/dev/b", "mr")),
        ("/dev/a::r", DeviceRequest("/dev/a", "/dev/a", "r")),
    ],
)
def test_devices(text: str, device: DeviceRequest) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize(
    "text", ["a", "/dev/a:", "/dev/a:rx", "/dev/a:/dev/b:rr", "/dev/a:b:c:d", "/dev/x/../a", "/dev//a", "//dev/a", "/dev/a:/b/."]
)
def test_devices_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_device(text)


def test_labels() -> None:
    labels = {"pyswarm.privileged": "True", "pyswarm.devices": "/dev/a, /dev/b:r,", "pyswarm.cdi": "v.com/gpu=0,v.com/gpu=0"}
    access = host_access(labels)
    assert access == HostAccess(True, (parse_device("/dev/a"), parse_device("/dev/b:r")), ("v.com/gpu=0",))
    assert host_access({"pyswarm.privileged": "", "other": "x"}) == host_access(None) == HostAccess()


@pytest.mark.parametrize(
    ("label", "value"), [("pyswarm.privileged", "yes"), ("pyswarm.devices", "kvm"), ("pyswarm.cdi", "gpu"), ("pyswarm.cdi", "a/b")]
)
def test_labels_that_mean_nothing(label: str, value: str) -> None:
    with pytest.raises(InvalidArgument):
        host_access({label: value})


@pytest.mark.parametrize(
    ("pattern", "device", "allowed"),
    [
        ("/dev/kvm", "/dev/kvm", True),
        ("/dev/dri/*", "/dev/dri/card0", True),
        ("/dev/dri/*", "/dev/dri", False),
        ("/dev/tty[AU]*", "/dev/ttyUSB0", True),
        ("/dev/tty[AU]*", "/dev/tty1", False),
        ("*", "/dev/sda", True),
    ],
)
def test_patterns(pattern: str, device: str, allowed: bool) -> None:
    access = HostAccess(devices=(parse_device(device),))
    assert (refusals(access, NodePermissions(devices=(pattern,))) == ()) == allowed


@given(st.text("/.adevx", max_size=20))
def test_no_path_leads_out_of_what_is_allowed(text: str) -> None:
    """A device that a pattern below /dev/dri lets through lies below /dev/dri."""
    try:
        device = parse_device(f"/dev/dri/{text}")
    except InvalidArgument:
        return
    if not refusals(HostAccess(devices=(device,)), NodePermissions(devices=("/dev/dri/*",))):
        assert ".." not in device.source.split("/")


def test_refusals_name_the_option() -> None:
    refused = refusals(HostAccess(True, (parse_device("/dev/a"),), ("v.com/gpu=0",)), NodePermissions())
    assert [refusal.option for refusal in refused] == ["--allow-privileged", "--allow-device /dev/a", "--allow-cdi v.com/gpu=0"]


@pytest.mark.parametrize("name", ["net.ipv4.ip_forward", "fs.mqueue.msg_max", "kernel.shmmax", "kernel.sem"])
def test_sysctls_of_namespaces(name: str) -> None:
    check_sysctl(name)


@pytest.mark.parametrize("name", ["kernel.hostname", "vm.swappiness", "net", "net/../kernel/panic", "net.../x", "fs.file-max"])
def test_sysctls_of_the_host(name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not allowed"):
        check_sysctl(name)


@pytest.mark.parametrize(("soft", "hard", "fine"), [(1, 1, True), (1, -1, True), (-1, -1, True), (2, 1, False), (-1, 5, False)])
def test_ulimits(soft: int, hard: int, fine: bool) -> None:
    if fine:
        check_ulimit("nofile", soft, hard)
        return
    with pytest.raises(InvalidArgument, match="ulimit soft limit must be less than or equal to hard limit"):
        check_ulimit("nofile", soft, hard)
