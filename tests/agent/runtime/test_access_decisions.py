"""What is decided about processes in containers: their description, their tree, their listing, the keys that leave them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent.container_files.reading import base_name, go_mode
from pyswarm_agent.runtime.access.exec_process import exec_process
from pyswarm_agent.runtime.access.interface import ExecConfig, TerminalSize
from pyswarm_agent.runtime.access.process_listing import check_arguments, parse_listing
from pyswarm_agent.runtime.access.process_tree import ProcessPlace, members, parse_place
from pyswarm_agent.runtime.process_user import ProcessUser
from pyswarm_agent.runtime.start_errors import exec_start_failed
from pyswarm_common.detach_keys import DetachFilter, parse_detach_keys
from pyswarm_common.errors import InvalidArgument

FIRST = {
    "terminal": True,
    "consoleSize": {"height": 1, "width": 2},
    "user": {"uid": 1, "gid": 1},
    "args": ["old"],
    "env": ["PATH=/bin", "A=1", "HOME=/first"],
    "cwd": "/srv",
    "capabilities": {"bounding": ["CAP_KILL"]},
    "apparmorProfile": "docker-default",
    "noNewPrivileges": True,
    "rlimits": ["kept"],
}
USER = ProcessUser(7, 8, (9,), "/home/seven")


def test_a_process_has_what_the_first_has() -> None:
    made = exec_process(FIRST, ExecConfig(args=("new", "x")), USER, sets_home=True)
    assert made == {
        **{key: value for key, value in FIRST.items() if key != "consoleSize"},
        "terminal": False,
        "user": {"uid": 7, "gid": 8, "additionalGids": [8, 9], "umask": 0o022},
        "args": ["new", "x"],
        "env": ["PATH=/bin", "A=1", "HOME=/home/seven"],
    }


def test_a_process_has_what_is_asked_for_it() -> None:
    config = ExecConfig(args=("sh",), env=("A=2", "B=3", "PATH"), cwd="/tmp", tty=True, is_privileged=True)
    made = exec_process(FIRST, config, USER, sets_home=False, privileged_capabilities=("CAP_B", "CAP_A"), size=TerminalSize(24, 80))
    assert made["env"] == ["A=2", "HOME=/first", "TERM=xterm", "B=3"]
    assert (made["cwd"], made["terminal"], made["consoleSize"]) == ("/tmp", True, {"height": 24, "width": 80})
    assert made["capabilities"]["effective"] == ["CAP_A", "CAP_B"]
    assert "apparmorProfile" not in made


def test_the_tree_of_a_process() -> None:
    places = {
        1: ProcessPlace(0, 1),  # the container's first
        10: ProcessPlace(5, 9),  # ours
        11: ProcessPlace(10, 9),
        12: ProcessPlace(11, 12),  # in a session of its own, but a descendant
        13: ProcessPlace(12, 12),
        14: ProcessPlace(1, 9),  # orphaned, but of the session
        15: ProcessPlace(14, 15),
        20: ProcessPlace(1, 1),
    }
    assert members(10, 9, places) == {10, 11, 12, 13, 14, 15}
    assert members(99, 98, places) == set()
    assert parse_place("42 (a) b) (c) S 7 8 9 0 -1 4194304") == ProcessPlace(parent=7, session=9)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-a", b"\x01"),
        ("a,b,ctrl-z", b"ab\x1a"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x00\x1b\x1c\x1d\x1e\x1f"),
        ("DEL", b"\x7f"),
    ],
)
def test_detach_keys(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-A", "ab", "a,,b", "ctrl-p ctrl-q", "ü"])
def test_unknown_detach_keys(text: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown character"):
        parse_detach_keys(text)


@given(
    pieces=st.lists(st.binary(max_size=6).map(lambda b: bytes(x % 4 for x in b)), max_size=12),
    keys=st.sampled_from([b"\1\2", b"\3", b"\1\1\2"]),
)
def test_what_is_typed_arrives_up_to_the_keys(pieces: list[bytes], keys: bytes) -> None:
    """Nothing but the keys and what follows them is lost; pieces do not matter, as long as the keys do not overlap themselves."""
    whole, filter_, alone = b"".join(pieces), DetachFilter(keys), DetachFilter(keys)
    passed = b"".join(filter_.pass_on(piece) for piece in pieces if not filter_.is_detached)
    assert (passed, filter_.is_detached) == (alone.pass_on(whole), alone.is_detached)
    if filter_.is_detached:
        assert whole.startswith(passed + keys)
    else:
        assert passed + filter_.held_back() == whole


def test_listing_of_processes() -> None:
    text = "UID  PID PPID C STIME TTY TIME CMD\nroot 12 1 0 01:55 ? 00:00:00 sh -c 'a  b'\nroot 99 1 0 01:55 ? 00:00:00 other\n"
    listing = parse_listing(text, {12})
    assert listing.titles == ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
    assert listing.rows == (("root", "12", "1", "0", "01:55", "?", "00:00:00", "sh -c 'a  b'"),)
    for broken in ("", "UID CMD\nroot sh\n"):
        with pytest.raises(InvalidArgument, match="Couldn't find PID field in ps output"):
            parse_listing(broken, {12})


@pytest.mark.parametrize("text", ["-o uid=PID", "-eo user=PIDX,pid", "-o comm,uid=PID"])
def test_arguments_that_lie_about_ids_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not allowed"):
        check_arguments(text.split())


@pytest.mark.parametrize("text", ["-ef", "aux", "-o pid=PID,comm", "-o pid,comm=NAME"])
def test_other_arguments_are_not(text: str) -> None:
    check_arguments(text.split())


@pytest.mark.parametrize(
    ("complaint", "exit_code", "words"),
    [
        ("executable file `x` not found in $PATH: No such file or directory", 127, 'exec: "x": executable file not found in $PATH'),
        ("open executable: Permission denied", 126, 'exec: "x": permission denied'),
        ("open executable: Operation not permitted", 126, 'exec: "x": permission denied'),
        ("chdir `/no`: No such file or directory", 127, "chdir `/no`"),
        ("something else", 128, "something else"),
        ("", 128, "no reason given"),
    ],
)
def test_why_a_process_could_not_be_started(complaint: str, exit_code: int, words: str) -> None:
    error = exec_start_failed(complaint, ["x"])
    assert (error.exit_code, words in error.message) == (exit_code, True)
    assert error.message.startswith("OCI runtime exec failed: exec failed: ")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o100644, 0o644),
        (0o104755, 0o755 | 1 << 23),
        (0o041777, 0o777 | 1 << 31 | 1 << 20),
        (0o120777, 0o777 | 1 << 27),
        (0o020666, 0o666 | 1 << 26 | 1 << 21),
        (0o060660, 0o660 | 1 << 26),
        (0o010600, 0o600 | 1 << 25),
        (0o140755, 0o755 | 1 << 24),
        (0o042755, 0o755 | 1 << 31 | 1 << 22),
    ],
)
def test_modes_as_go_has_them(mode: int, expected: int) -> None:
    assert go_mode(mode) == expected


@pytest.mark.parametrize(("path", "name"), [("/a/b", "b"), ("a/b/", "b"), ("/", "/"), ("/a/.", "."), ("", "/"), ("/a/..", "..")])
def test_last_part_of_a_path(path: str, name: str) -> None:
    assert base_name(path) == name
