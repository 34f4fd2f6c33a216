"""What the lab decides without touching the machine: subnets, addresses, wiring, cuts, and which cgroup hierarchies there are."""

import ipaddress
import json
from pathlib import Path

import pytest

from pyswarm_cli.lab import cgroups, network
from pyswarm_cli.lab.cgroups import Hierarchy
from pyswarm_cli.lab.lab import Lab, parse_daemon_command
from pyswarm_cli.lab.state import HostState, LabState, ProcessIdentity, load_state, save_state
from pyswarm_common.errors import FailedPrecondition, InvalidArgument, NotFound

SUBNET = ipaddress.IPv4Network("10.77.3.0/24")


def test_the_first_subnet_that_no_lab_has_is_chosen() -> None:
    assert network.choose_subnet([]) == "10.77.0.0/24"
    assert network.choose_subnet(["10.77.0.0/24", "10.77.1.64/26", "192.168.0.0/16"]) == "10.77.2.0/24"
    with pytest.raises(FailedPrecondition, match="taken"):
        network.choose_subnet(["10.0.0.0/8"])


def test_addresses_follow_the_hosts_number() -> None:
    assert network.switch_address(SUBNET) == "10.77.3.1"
    assert [network.host_address(SUBNET, index) for index in range(3)] == ["10.77.3.11", "10.77.3.12", "10.77.3.13"]
    assert network.hardware_address("10.77.3.11") == "02:77:0a:4d:03:0b"
    assert network.parse_subnet("10.77.3.0/24", network.MAX_HOSTS) == SUBNET


@pytest.mark.parametrize("text", ["", "10.77.3.1/24", "fd00::/64", "10.77.3.0/33", "nonsense"])
def test_a_wrong_subnet_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid subnet"):
        network.parse_subnet(text, 3)


def test_a_cable_has_one_end_in_the_host() -> None:
    assert network.cable_commands("n1", "10.77.3.11", 42).splitlines() == [
        "link add n1 type veth peer name eth0 address 02:77:0a:4d:03:0b netns 42",
        "link set n1 master lab0 up",
    ]


def test_the_rules_of_cuts() -> None:
    assert network.cut_rules(["n3"], [("n1", "n2"), ("n1", "switch")]) == (
        "table bridge pyswarm_lab_cuts\n"
        "delete table bridge pyswarm_lab_cuts\n"
        "table bridge pyswarm_lab_cuts {\n"
        "    chain input {\n"
        "        type filter hook input priority 0; policy accept;\n"
        '        iifname "n3" drop\n'
        '        iifname "n1" drop\n'
        "    }\n"
        "    chain forward {\n"
        "        type filter hook forward priority 0; policy accept;\n"
        '        iifname "n3" drop\n'
        '        oifname "n3" drop\n'
        '        iifname "n1" oifname "n2" drop\n'
        '        iifname "n2" oifname "n1" drop\n'
        "    }\n"
        "    chain output {\n"
        "        type filter hook output priority 0; policy accept;\n"
        '        oifname "n3" drop\n'
        '        oifname "n1" drop\n'
        "    }\n"
        "}\n"
    )
    assert "drop" not in network.cut_rules([], [])


def test_a_cut_one_way_drops_one_way() -> None:
    rules = network.cut_rules([], [], [("n1", "n2"), ("switch", "n3"), ("n3", "switch")])
    assert [line.strip() for line in rules.splitlines() if "drop" in line] == [
        'iifname "n3" drop',
        'iifname "n1" oifname "n2" drop',
        'oifname "n3" drop',
    ]


UNIFIED = "25 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot"
HYBRID = """\
24 23 0:22 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
25 24 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
26 24 0:24 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
27 24 0:25 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
28 24 0:25 /docker/x /elsewhere rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
29 24 0:27 / /sys/fs/cgroup/devices rw,nosuid - cgroup cgroup rw,devices,release_agent=/bin/x
"""


def test_the_hierarchies_of_a_unified_machine() -> None:
    (only,) = cgroups.parse_hierarchies(UNIFIED)
    assert only == Hierarchy(Path("/sys/fs/cgroup"), "cgroup2", "")
    assert only.is_v2


def test_the_hierarchies_of_a_hybrid_machine() -> None:
    assert cgroups.parse_hierarchies(HYBRID) == [
        Hierarchy(Path("/sys/fs/cgroup/unified"), "cgroup2", ""),
        Hierarchy(Path("/sys/fs/cgroup/systemd"), "cgroup", "name=systemd"),
        Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), "cgroup", "cpu,cpuacct"),
        Hierarchy(Path("/sys/fs/cgroup/devices"), "cgroup", "devices"),
    ]


def test_a_process_is_known_by_its_start_too() -> None:
    own = ProcessIdentity.of(1)
    assert own is not None
    assert own.is_running
    assert not ProcessIdentity(1, own.start_ticks + 1).is_running
    assert ProcessIdentity.of(2**22 + 1) is None


def test_the_state_survives_the_disk(tmp_path: Path) -> None:
    host = HostState("n1", "10.77.3.11", init=ProcessIdentity(1, 2), daemon_arguments=["--flag"])
    state = LabState("x", str(SUBNET), {"n1": host}, ["pyswarmd"], cut_pairs=[("n1", "n2")])
    save_state(tmp_path, state)
    assert load_state(tmp_path) == state
    assert json.loads((tmp_path / "lab.json").read_text())["name"] == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["lab.json"]


def test_a_damaged_state_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_text('{"name": 1}')
    with pytest.raises(InvalidArgument, match=f"pyswarm lab down --name {tmp_path.name}"):
        load_state(tmp_path)
    with pytest.raises(NotFound):
        load_state(tmp_path / "lab.json" / "below")


def test_no_labs_folder_means_no_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSWARM_LAB_DIR", str(tmp_path / "none"))
    assert Lab.all() == []
    assert Lab("x").leftovers() == []


def test_daemon_commands_are_split_as_in_a_shell() -> None:
    assert parse_daemon_command("pyswarmd --insecure-registry '10.0.0.0/8'") == ["pyswarmd", "--insecure-registry", "10.0.0.0/8"]
    for text in ("", "  ", "pyswarmd 'open"):
        with pytest.raises(InvalidArgument, match="daemon command"):
            parse_daemon_command(text)
