"""From the options of `pyswarm run` to the API's body; what a container's archive may do to this machine."""

import io
import tarfile
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pyswarm_cli.container.copying import extract_archive, split_place
from pyswarm_cli.container.create_options import create_options
from pyswarm_cli.container.creation import container_body


def body_of(*line: str) -> dict[str, Any]:
    """Return the body for a command line, through click's own parsing."""
    made: list[dict[str, Any]] = []

    @click.command(
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": ["--help"]}
    )
    @create_options
    @click.argument("image")
    @click.argument("command", nargs=-1, type=click.UNPROCESSED)
    def command(image: str, command: tuple[str, ...], **given: Any) -> None:
        made.append(container_body(image, command, given))

    result = CliRunner().invoke(command, line)
    if result.exit_code:
        raise AssertionError(result.output)
    return made[0]


def test_nothing_said_is_nothing_asked() -> None:
    assert body_of("busybox") == {
        "Image": "busybox",
        "HostConfig": {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}},
    }


@pytest.mark.parametrize(
    ("line", "part", "expected"),
    [
        (["img", "sh", "-c", "exit 3"], "Cmd", ["sh", "-c", "exit 3"]),
        (["--entrypoint", "", "img", "ls"], "Entrypoint", [""]),
        (["--entrypoint", "/bin/tool -v", "img"], "Entrypoint", ["/bin/tool", "-v"]),
        (["-e", "A=1", "-e", "B=2", "img"], "Env", ["A=1", "B=2"]),
        (["-l", "a=b", "--label", "c", "img"], "Labels", {"a": "b", "c": ""}),
        (["-h", "box", "img"], "Hostname", "box"),
        (
            ["--net", "app", "--network-alias", "a", "--network-alias", "b", "--ip", "10.0.1.9", "img"],
            "NetworkingConfig",
            {"EndpointsConfig": {"app": {"Aliases": ["a", "b"], "IPAMConfig": {"IPv4Address": "10.0.1.9"}}}},
        ),
        (["--stop-timeout", "0", "img"], "StopTimeout", 0),
        (["--no-healthcheck", "img"], "Healthcheck", {"Test": ["NONE"]}),
        (
            ["--health-cmd", "true", "--health-interval", "2s", "--health-retries", "5", "img"],
            "Healthcheck",
            {"Test": ["CMD-SHELL", "true"], "Interval": 2_000_000_000, "Retries": 5},
        ),
        (["-v", "/data", "img"], "Volumes", {"/data": {}}),
        (["-p", "80", "--expose", "9000-9001/udp", "img"], "ExposedPorts", {"9000/udp": {}, "9001/udp": {}, "80/tcp": {}}),
    ],
)
def test_what_the_container_is(line: list[str], part: str, expected: object) -> None:
    assert body_of(*line)[part] == expected


@pytest.mark.parametrize(
    ("line", "part", "expected"),
    [
        (["--restart", "on-failure:3"], "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 3}),
        (["--rm"], "AutoRemove", True),
        (["-p", "8080:80"], "PortBindings", {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
        (["-p", "127.0.0.1::53/udp"], "PortBindings", {"53/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}),
        (["-p", "[::1]:8080:80"], "PortBindings", {"80/tcp": [{"HostIp": "::1", "HostPort": "8080"}]}),
        (["-p", "8000-8009:80"], "PortBindings", {"80/tcp": [{"HostIp": "", "HostPort": "8000-8009"}]}),
        (
            ["-p", "7000-7001:80-81"],
            "PortBindings",
            {"80/tcp": [{"HostIp": "", "HostPort": "7000"}], "81/tcp": [{"HostIp": "", "HostPort": "7001"}]},
        ),
        (["-v", "data:/data:ro"], "Binds", ["data:/data:ro"]),
        (["--tmpfs", "/run:size=1m"], "Tmpfs", {"/run": "size=1m"}),
        (
            ["--device", "/dev/fuse:r"],
            "Devices",
            [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "r"}],
        ),
        (["--device", "vendor.com/gpu=0"], "DeviceRequests", [{"Driver": "cdi", "DeviceIDs": ["vendor.com/gpu=0"]}]),
        (["-m", "64m", "--memory-swap", "-1"], "MemorySwap", -1),
        (["--cpus", "1.5"], "NanoCpus", 1_500_000_000),
        (["--ulimit", "nofile=10:20"], "Ulimits", [{"Name": "nofile", "Soft": 10, "Hard": 20}]),
        (["--sysctl", "net.core.somaxconn=9"], "Sysctls", {"net.core.somaxconn": "9"}),
        (["--security-opt", "no-new-privileges"], "SecurityOpt", ["no-new-privileges"]),
        (["--log-driver", "local", "--log-opt", "max-size=1m"], "LogConfig", {"Type": "local", "Config": {"max-size": "1m"}}),
    ],
)
def test_what_it_may_and_reaches(line: list[str], part: str, expected: object) -> None:
    assert body_of(*line, "img")["HostConfig"][part] == expected


@pytest.mark.parametrize(
    "line",
    [
        ["-p", "0:80"],
        ["-p", "80:80:80:80"],
        ["-p", "8000-8001:80-85"],
        ["-p", "80/icmp"],
        ["--restart", "always:3"],
        ["--restart", "sometimes"],
        ["--ulimit", "nofile"],
        ["--device", "/a:/b:/c:rw"],
        ["--memory-swap", "much"],
        ["--security-opt", "seccomp=/no/such/file"],
        ["--mount", "type=bind,target=/x"],
    ],
)
def test_what_makes_no_sense_is_refused(line: list[str]) -> None:
    with pytest.raises(AssertionError, match="Error: "):
        body_of(*line, "img")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("web.1:/etc", ("web.1", "/etc")),
        ("db:", ("db", "/")),
        ("/a:b", None),
        ("./a:b", None),
        ("file", None),
        ("-", None),
    ],
)
def test_which_side_is_a_container(place: str, expected: tuple[str, str] | None) -> None:
    assert split_place(place) == expected


def archive(*members: tuple[str, bytes, str]) -> tarfile.TarFile:
    """Return an archive of (name, type, content or link's target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, kind, value in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if kind == tarfile.REGTYPE:
                info.size = len(value)
                made.addfile(info, io.BytesIO(value.encode()))
            else:
                info.linkname = value
                made.addfile(info)
    buffer.seek(0)
    return tarfile.open(fileobj=buffer)


FOLDER = (
    ("src", tarfile.DIRTYPE, ""),
    ("src/a", tarfile.REGTYPE, "one"),
    ("src/b", tarfile.LNKTYPE, "src/a"),
    ("src/c", tarfile.SYMTYPE, "a"),
)


def test_a_folder_goes_into_one_that_exists(tmp_path: Path) -> None:
    with archive(*FOLDER) as packed:
        extract_archive(packed, tmp_path, copies_content=False)
    assert (tmp_path / "src/b").read_text() == "one"
    assert (tmp_path / "src/c").readlink() == Path("a")


def test_a_folder_takes_the_name_of_one_that_does_not(tmp_path: Path) -> None:
    with archive(*FOLDER) as packed:
        extract_archive(packed, tmp_path / "new", copies_content=False)
    assert (tmp_path / "new/b").read_text() == "one"


def test_what_is_in_a_folder_goes_alone(tmp_path: Path) -> None:
    with archive(*FOLDER) as packed:
        extract_archive(packed, tmp_path, copies_content=True)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "one"


@pytest.mark.parametrize(
    "members",
    [
        [("src/../../out", tarfile.REGTYPE, "x")],
        [("src", tarfile.SYMTYPE, "/"), ("src/out", tarfile.REGTYPE, "x")],
        [("src", tarfile.SYMTYPE, ".."), ("src/out", tarfile.REGTYPE, "x")],
        [("src", tarfile.LNKTYPE, "src/../../secret")],
    ],
)
def test_a_hostile_archive_writes_nothing_outside(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    (tmp_path / "secret").write_text("mine")
    inside = tmp_path / "inside"
    inside.mkdir()
    with archive(*members) as packed, pytest.raises(click.ClickException):
        extract_archive(packed, inside, copies_content=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "secret"]


def test_a_device_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with archive(("src", tarfile.DIRTYPE, ""), ("src/d", tarfile.CHRTYPE, ""), ("src/a", tarfile.REGTYPE, "one")) as packed:
        extract_archive(packed, tmp_path / "new", copies_content=False)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]
    assert capsys.readouterr().err == "new/d is a device, which is not copied\n"


def test_what_is_in_a_folder_comes_below_a_point(tmp_path: Path) -> None:
    with archive((".", tarfile.DIRTYPE, ""), ("./a", tarfile.REGTYPE, "one"), ("./sub/b", tarfile.REGTYPE, "two")) as packed:
        extract_archive(packed, tmp_path / "new", copies_content=True)
    assert ((tmp_path / "new/a").read_text(), (tmp_path / "new/sub/b").read_text()) == ("one", "two")


def test_a_folder_does_not_go_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with archive(*FOLDER) as packed, pytest.raises(click.ClickException, match="cannot copy a folder"):
        extract_archive(packed, tmp_path / "file", copies_content=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_link_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    inside = tmp_path / "inside"
    inside.mkdir()
    with archive(("f", tarfile.SYMTYPE, "../mine"), ("f", tarfile.REGTYPE, "theirs")) as packed:
        extract_archive(packed, inside, copies_content=False)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (inside / "f").read_text() == "theirs"
