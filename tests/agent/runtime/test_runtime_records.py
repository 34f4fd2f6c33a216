"""Users, signals, capabilities, start errors, cgroup layouts: text in, values out."""

from pathlib import Path

import pytest

from pyswarm_agent.runtime.capabilities import DEFAULT_CAPABILITIES, capabilities_of_mask, container_capabilities
from pyswarm_agent.runtime.cgroups import Cgroups, Hierarchy, enable_controllers, parse_layout
from pyswarm_agent.runtime.process_user import ProcessUser, resolve_user
from pyswarm_agent.runtime.signals import signal_number
from pyswarm_agent.runtime.start_errors import container_start_failed
from pyswarm_common.errors import InvalidArgument

PASSWD = "# comment\nroot:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/srv:/bin/sh\n77:x:5:6::/seven:\n"
GROUP = "root:x:0:\nweb:x:34:\nstaff:x:50:root,web\naudio:x:60:web\n"


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        ("", (), ProcessUser(0, 0, (50,), "/root")),
        ("web", (), ProcessUser(33, 34, (50, 60), "/srv")),
        ("33", (), ProcessUser(33, 34, (50, 60), "/srv")),
        ("web:staff", (), ProcessUser(33, 50, (), "/srv")),
        ("web:7", (), ProcessUser(33, 7, (), "/srv")),
        ("1000", (), ProcessUser(1000, 0, (), "/")),
        ("1000:1000", ("audio", "9"), ProcessUser(1000, 1000, (60, 9), "/")),
        ("77", (), ProcessUser(5, 6, (), "/seven")),
    ],
)
def test_users(user: str, groups: tuple[str, ...], expected: ProcessUser) -> None:
    assert resolve_user(user, groups, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    ("user", "groups", "message"),
    [
        ("nobody", (), "unable to find user nobody: no matching entries in passwd file"),
        ("web:none", (), "unable to find group none: no matching entries in group file"),
        ("web", ("none",), "unable to find group none"),
        ("4294967296", (), "must be in range"),
    ],
)
def test_unknown_users(user: str, groups: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        resolve_user(user, groups, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("name", "number"), [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGHUP", 1), ("SIGRTMIN+3", 37), ("RTMIN", 34)]
)
def test_signals(name: str, number: int) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["", "0", "99", "SIGNOPE", "SIGTERM+1", "SIGRTMIN+99", "SIGRTMIN+x", "-9"])
def test_no_signals(name: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal"):
        signal_number(name)


def test_default_capabilities_are_dockers_mask() -> None:
    assert capabilities_of_mask(0xA80425FB) == DEFAULT_CAPABILITIES


def test_capability_wishes() -> None:
    host = capabilities_of_mask(0x1FFFEFFFFFF)
    assert container_capabilities(["net_admin"], ["CAP_CHOWN"], host)[0] == DEFAULT_CAPABILITIES - {"CAP_CHOWN"} | {"CAP_NET_ADMIN"}
    assert container_capabilities(["ALL"], [], host)[0] == host
    assert container_capabilities(["CHOWN"], ["ALL"], host)[0] == {"CAP_CHOWN"}
    assert container_capabilities(["SYS_RESOURCE"], [], host) == (DEFAULT_CAPABILITIES, {"CAP_SYS_RESOURCE"})
    with pytest.raises(InvalidArgument, match="unknown capability: 'FLY'"):
        container_capabilities(["FLY"], [], host)


@pytest.mark.parametrize(
    ("complaint", "program", "message", "code"),
    [
        (
            "executable file `web` not found in $PATH: No such file or directory",
            "web",
            'unable to start container process: exec: "web": executable file not found in $PATH: unknown',
            127,
        ),
        (
            'time="2024-01-01T00:00:00Z" level=error msg="open executable: Permission denied"',
            "/etc/passwd",
            'unable to start container process: exec: "/etc/passwd": permission denied: unknown',
            126,
        ),
        (
            "open executable: Operation not permitted",
            "/etc",
            'unable to start container process: exec: "/etc": permission denied: unknown',
            126,
        ),
        ("mount `/x` to `/y`: Invalid argument\n", "sh", "mount `/x` to `/y`: Invalid argument: unknown", 128),
        ("", "sh", "no reason given: unknown", 128),
    ],
)
def test_start_errors(complaint: str, program: str, message: str, code: int) -> None:
    error = container_start_failed(complaint, [program])
    assert (str(error), error.exit_code) == (f"OCI runtime create failed: {message}", code)


HYBRID = """\
23 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 23 0:32 / /mnt/memory rw,relatime - cgroup cgroup rw,memory
"""
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_hybrid_layout() -> None:
    layout = parse_layout(HYBRID)
    assert not layout.is_unified
    assert layout.beside == Path("/sys/fs/cgroup/unified")
    assert layout.holding("memory") == Path("/sys/fs/cgroup/memory")
    assert layout.holding("cpuacct") == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert layout.holding("hugetlb") is None
    assert Hierarchy(Path("/sys/fs/cgroup/systemd"), 1, frozenset({"name=systemd"})) in layout.hierarchies


def test_unified_layout() -> None:
    layout = parse_layout(UNIFIED)
    assert (layout.is_unified, layout.beside, layout.holding("memory")) == (True, None, Path("/sys/fs/cgroup"))


def test_oom_kills_of_version_2(tmp_path: Path) -> None:
    layout = parse_layout(UNIFIED)
    cgroups = Cgroups(layout._replace(hierarchies=(Hierarchy(tmp_path, 2),)), "/pyswarm-x")
    (tmp_path / "pyswarm-x/one").mkdir(parents=True)
    (tmp_path / "pyswarm-x/one/memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 0\n")
    assert cgroups.oom_kills("one") == 2
    assert cgroups.oom_kills("two") == 0
    assert cgroups.names() == {"one"}


def test_controllers_are_enabled_once(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory misc pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    enable_controllers(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +pids"
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    enable_controllers(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "cpu memory pids\n"
