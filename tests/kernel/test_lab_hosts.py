"""The lab's hosts are machines of their own: what they share, what they keep over a power cut, and what `down` leaves."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyswarm_cli.lab.host import CommandError, Host
from pyswarm_cli.lab.lab import Lab
from pyswarm_common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PyswarmError

pytestmark = pytest.mark.kernel

PING = ["busybox", "ping", "-c", "1", "-W", "1"]
# Answers GET /_ping on the API socket as pyswarmd does; says hello in its log; ends on SIGTERM.
STAND_IN = r"""
import http.server, os, socketserver, sys
os.makedirs("/run/pyswarm", exist_ok=True)
path = "/run/pyswarm/pyswarm.sock"
if os.path.exists(path):
    os.unlink(path)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"OK")
    def log_message(self, *arguments): pass
    def address_string(self): return "unix"
print("hello from", os.uname().nodename, *sys.argv[1:], flush=True)
socketserver.UnixStreamServer(path, Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def labs_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("labs")
    patch = pytest.MonkeyPatch()
    patch.setenv("PYSWARM_LAB_DIR", str(folder / "labs"))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def lab(labs_folder: Path) -> Iterator[Lab]:
    with Lab.create(f"h{os.getpid()}", hosts=3, daemon_command=["/usr/bin/python3", "-c", STAND_IN]) as lab:
        yield lab
    assert lab.leftovers() == []


def reaches(host: Host, other: Host) -> bool:
    return host.run([*PING, other.address], check=False).returncode == 0


def test_three_hosts_start_within_two_seconds(labs_folder: Path) -> None:
    started_s = time.monotonic()
    with Lab.create(f"q{os.getpid()}", hosts=3) as lab:
        took_s = time.monotonic() - started_s
        assert len(lab.hosts) == 3
    assert took_s < 2


def test_hosts_reach_each_other_and_the_switch_by_name(lab: Lab) -> None:
    for name in ("n2", "n3", "switch"):
        lab.host("n1").run([*PING, name])
    lab.switch.run([*PING, "n1"])


def test_every_namespace_is_its_own(lab: Lab) -> None:
    kinds = ("net", "mnt", "pid", "uts", "ipc", "cgroup")
    for kind in kinds:
        places = [os.readlink(f"/proc/{host.pid}/ns/{kind}") for host in (*lab.hosts, lab.switch)]
        assert len({*places, os.readlink(f"/proc/self/ns/{kind}")}) == 5, kind


def test_a_command_is_in_the_host_with_all_of_it(lab: Lab) -> None:
    host = lab.host("n1")
    assert host.run(["cat", "/etc/hostname"]).stdout == "n1\n"
    assert host.run(["uname", "-n"]).stdout == "n1\n"
    assert host.run(["cat", "/proc/1/comm"]).stdout == "tini\n"
    assert host.run(["sh", "-c", "ls /sys/class/net"]).stdout.split() == ["eth0", "lo"]
    groups = [line.rpartition(":")[2] for line in host.run(["cat", "/proc/self/cgroup"]).stdout.splitlines()]
    assert set(groups) <= {"/", "/init"}
    assert host.run(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "0\n"


def test_the_cgroup_tree_shows_only_the_host(lab: Lab) -> None:
    for host in (lab.host("n1"), lab.host("n2")):
        shown = host.run(["sh", "-c", "grep -E ' (cgroup|cgroup2) ' /proc/self/mountinfo | cut -d' ' -f4"]).stdout.split()
        assert shown
        assert set(shown) == {"/"}
    first = lab.host("n1").run(["sh", "-c", "find /sys/fs/cgroup -name cgroup.procs | xargs cat | sort -un"]).stdout.split()
    assert {"1", "2"} <= set(first)
    assert len(first) < 10, "it sees processes that are not its own"


def test_a_host_has_no_junk_from_its_maker(labs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUNK", "1")
    descriptor = os.open("/", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        with Lab.create(f"j{os.getpid()}", hosts=1) as lab:
            host = lab.host("n1")
            assert "JUNK" not in host.run(["sh", "-c", "tr '\\0' '\\n' </proc/1/environ; env"]).stdout
            assert host.run(["sh", "-c", "ls /proc/1/fd"]).stdout.split() == ["0", "1", "2"]
            assert host.run(["sh", "-c", "ls -l /proc/1/fd"]).stdout.count("/dev/null") == 3
            assert "SigBlk:\t0000000000000000" in Path(f"/proc/{host.pid}/status").read_text()
    finally:
        os.close(descriptor)


def test_exit_codes_signals_and_input_pass_through(lab: Lab) -> None:
    host = lab.host("n1")
    assert host.run(["sh", "-c", "exit 7"], check=False).returncode == 7
    assert host.run(["sh", "-c", "kill -KILL $$"], check=False).returncode == 137
    assert host.run(["cat"], input="three words here").stdout == "three words here"
    missing = host.run(["no-such-program"], check=False)
    assert (missing.returncode, missing.stderr) == (127, "pyswarm lab: no-such-program: No such file or directory\n")
    with pytest.raises(CommandError, match="to stderr"):
        host.run(["sh", "-c", "echo to stderr >&2; exit 1"])
    kept = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what the caller ignores, the command does not
    waiting = host.popen(["sh", "-c", "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.01; done"])
    signal.signal(signal.SIGTERM, kept)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "ready\n"
    waiting.send_signal(signal.SIGTERM)
    output, _ = waiting.communicate(timeout=10)
    assert (output, waiting.returncode) == ("caught\n", 3)


def test_a_command_dies_with_the_process_that_started_it(lab: Lab) -> None:
    host = lab.host("n1")
    running = host.popen(["sh", "-c", "echo $$; exec sleep 1000"])
    assert running.stdout is not None
    inner_pid = running.stdout.readline().strip()
    running.kill()
    running.communicate()
    deadline_s = time.monotonic() + 5
    while host.run(["test", "-d", f"/proc/{inner_pid}"], check=False).returncode == 0:
        assert time.monotonic() < deadline_s
    with pytest.raises(subprocess.TimeoutExpired):
        host.run(["sleep", "1000"], timeout_s=0.3)


def test_places_of_their_own_and_places_shared(lab: Lab) -> None:
    one, other = lab.host("n1"), lab.host("n2")
    mark = f"mark-{os.getpid()}"
    for place in (f"{folder}/{mark}" for folder in ("/run", "/tmp", "/dev/shm", "/var/lib", "/var/lib/pyswarm")):
        one.run(["touch", place])
        assert other.run(["test", "-e", place], check=False).returncode == 1, place
        assert not Path(place).exists(), place
    assert (one.disk / mark).exists()
    (lab.share / "x").write_text("for all")
    assert other.run(["cat", str(lab.share / "x")]).stdout == "for all"
    assert (one.root / "run" / mark).exists()


def test_a_power_cut_kills_everything_and_keeps_the_disk(lab: Lab) -> None:
    host, other = lab.host("n2"), lab.host("n1")
    host.run(["sh", "-c", "echo kept > /var/lib/pyswarm/kept; echo lost > /run/lost; ip link add d0 type bridge"])
    host.run(["sh", "-c", "mkdir -p /run/m; mount -t tmpfs none /run/m; nft add table inet stale; ip netns add deep"])
    running = [host.popen(["sleep", "1000"]), host.popen(["setsid", "sleep", "1000"])]
    hardware = host.run(["cat", "/sys/class/net/eth0/address"]).stdout
    host.power_cut()
    for process in running:
        process.communicate(timeout=5)
    assert not host.is_on
    assert not reaches(other, host)
    with pytest.raises(FailedPrecondition, match="host n2 is off"):
        host.run(["true"])
    host.power_cut()  # nothing more happens
    host.power_on()
    assert host.run(["cat", "/var/lib/pyswarm/kept"]).stdout == "kept\n"
    assert host.run(["sh", "-c", "ls /run"]).stdout.split() == ["lock"]
    assert host.run(["nft", "list", "tables"]).stdout == ""
    assert host.run(["sh", "-c", "ls /sys/class/net"]).stdout.split() == ["eth0", "lo"]
    assert host.run(["cat", "/sys/class/net/eth0/address"]).stdout == hardware
    assert reaches(other, host)
    with pytest.raises(FailedPrecondition, match="on already"):
        host.power_on()


def test_a_power_cut_says_no_goodbye_to_those_who_are_connected(lab: Lab) -> None:
    server, client = lab.host("n2"), lab.host("n1")
    listen = "import socket; s = socket.create_server(('', 7000)); print(flush=True); c = s.accept()[0]; c.send(b'x'); c.recv(1)"
    listener = server.popen(["/usr/bin/python3", "-c", listen])
    assert listener.stdout is not None
    listener.stdout.readline()
    connect = f"import socket; s = socket.create_connection(('{server.address}', 7000)); print(s.recv(1), flush=True); "
    connect += "s.settimeout(2); s.recv(1)"
    caller = client.popen(["/usr/bin/python3", "-c", connect])
    assert caller.stdout is not None
    assert caller.stdout.readline() == "b'x'\n"
    server.power_cut()
    assert "TimeoutError" in caller.communicate(timeout=10)[1]
    listener.communicate(timeout=5)
    server.power_on()


def test_a_cut_loses_packets_silently_until_healed(lab: Lab) -> None:
    one, two, three = lab.hosts
    one.cut()
    assert not reaches(one, two)
    assert not reaches(three, one)
    assert not reaches(one, lab.switch)
    assert reaches(two, three)
    assert one.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "1\n"
    one.heal()
    assert reaches(one, two)
    assert reaches(one, lab.switch)


def test_a_cut_between_two_hosts_leaves_the_others(lab: Lab) -> None:
    one, two, three = lab.hosts
    two.cut("n1")
    one.cut("switch")
    assert not reaches(one, two)
    assert not reaches(two, one)
    assert not reaches(one, lab.switch)
    assert reaches(one, three)
    assert reaches(two, three)
    assert reaches(two, lab.switch)
    one.heal("n2")
    assert reaches(one, two)
    assert not reaches(lab.switch, one)
    lab.heal()
    assert reaches(one, lab.switch)


def test_a_cut_one_way_lets_the_other_way_through(lab: Lab) -> None:
    one, two, three = lab.hosts
    one.cut_to("n2")
    assert not reaches(one, two)
    assert reaches(one, three)
    received = ["cat", "/sys/class/net/eth0/statistics/rx_packets"]
    before = int(one.run(received).stdout)
    assert not reaches(two, one)  # what answers is lost, but what asks arrives
    assert int(one.run(received).stdout) > before
    two.heal("n1")
    assert reaches(one, two)


def test_an_unplugged_host_sees_no_carrier(lab: Lab) -> None:
    one, two = lab.host("n1"), lab.host("n2")
    one.unplug()
    assert not reaches(two, one)
    assert one.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "0\n"
    one.plug()
    assert reaches(two, one)
    assert reaches(one, two)


def test_a_cut_outlives_a_power_cut(lab: Lab) -> None:
    host, other = lab.host("n3"), lab.host("n1")
    host.cut()
    host.power_cut()
    host.power_on()
    assert not reaches(host, other)
    host.heal()
    assert reaches(host, other)


def test_the_daemon_starts_logs_and_comes_back_with_the_power(lab: Lab) -> None:
    host = lab.host("n1")
    with pytest.raises(FailedPrecondition, match="no daemon"):
        host.kill_daemon()
    host.start_daemon(["--flag"])
    first = host.daemon_pid
    assert first is not None
    assert "0::" in Path(f"/proc/{first}/cgroup").read_text()
    assert f"pyswarm-lab-{lab.name}/n1" in Path(f"/proc/{first}/cgroup").read_text()
    assert "\nPPid:\t1\n" in host.run(["sh", "-c", "cat /proc/$(pgrep -f socketserver | head -1)/status"]).stdout
    with pytest.raises(FailedPrecondition, match="already"):
        host.start_daemon()
    host.kill_daemon(signal.SIGKILL)
    assert host.daemon_pid is None
    assert not host.api_answers()
    host.start_daemon()
    host.kill_daemon(signal.SIGTERM)
    host.start_daemon()
    host.power_cut()
    assert host.daemon_pid is None
    host.power_on()
    assert host.api_answers()
    assert host.daemon_pid not in (None, first)
    assert host.log_path.read_text().splitlines() == ["hello from n1 --flag"] * 4


def test_a_daemon_that_ends_is_reported_with_its_log(labs_folder: Path) -> None:
    lab = Lab(f"f{os.getpid()}")
    with pytest.raises(PyswarmError, match=r"(?s)pyswarmd in host n1 has ended.*no such luck"):
        Lab.create(lab.name, hosts=1, daemon=True, daemon_command=["sh", "-c", "echo no such luck; exit 1"])
    assert lab.leftovers() == []


def test_hosts_can_be_switched_by_many_threads(lab: Lab) -> None:
    def cycle(host: Host) -> None:
        host.power_cut()
        host.power_on()

    threads = [threading.Thread(target=cycle, args=[host]) for host in lab.hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(reaches(host, lab.switch) for host in lab.hosts)


def test_down_after_a_crash_half_way(labs_folder: Path) -> None:
    lab = Lab(f"c{os.getpid()}")
    crashing = (
        "import os; from pyswarm_cli.lab import power; from pyswarm_cli.lab.lab import Lab\n"
        f"power.ip_batch = lambda *_: os.kill(os.getpid(), 9)\nLab.create({lab.name!r}, hosts=2)"
    )
    assert subprocess.run([sys.executable, "-c", crashing], check=False).returncode == -signal.SIGKILL
    found = "\n".join(lab.leftovers())
    for kind in ("process", "cgroup", "files"):
        assert kind in found
    (lab.directory / "lab.json").write_text("{ damaged")
    lab.down()
    assert lab.leftovers() == []
    lab.down()


def test_names_are_checked(lab: Lab) -> None:
    with pytest.raises(AlreadyExists, match=f"pyswarm lab down --name {lab.name}"):
        Lab.create(lab.name)
    with pytest.raises(NotFound, match="it has switch, n1, n2, n3"):
        lab.host("n9")
    with pytest.raises(NotFound, match="no lab named 'nowhere'"):
        Lab.open("nowhere")
    for name in ("", "A", "a/b", "..", "x" * 40):
        with pytest.raises(InvalidArgument, match="lab name"):
            Lab(name)
    with pytest.raises(InvalidArgument, match="1 to 200 hosts"):
        Lab.create("zero", hosts=0)
    with pytest.raises(InvalidArgument, match="invalid subnet"):
        Lab.create("bad", subnet="10.0.0.1/24")
    with pytest.raises(InvalidArgument, match="too small"):
        Lab.create("bad", subnet="10.0.0.0/28", hosts=9)
    with pytest.raises(InvalidArgument, match="the switch cannot be"):
        lab.switch.power_cut()
