"""Rotation: which steps follow from which state, and, with a monitor in miniature, that no line is lost whatever is interrupted."""

import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm_agent.runtime.handle import ContainerHandle
from pyswarm_agent.runtime.log_files import Archive, LogFiles
from pyswarm_agent.runtime.log_keeper import LogKeeper
from pyswarm_agent.runtime.log_rotation import (
    PATIENT_GLANCES,
    ClearPartials,
    Compress,
    Drop,
    Empty,
    Link,
    LogState,
    MonitorGlance,
    RemovePlain,
    RemoveReserve,
    Reopen,
    Reserve,
    Step,
    Unlink,
    is_certainly_not_told,
    plan_rotation,
)
from pyswarm_agent.runtime.log_steps import carry_out, compress
from pyswarm_agent.runtime.log_walk import LogWalk
from pyswarm_agent.runtime.paths import ContainerPaths, SavedContainer
from pyswarm_agent.runtime.processes import ProcessIdentity
from pyswarm_agent.runtime.records import ContainerConfig, ContainerRecord, LogConfig
from pyswarm_common.clock import ManualClock
from pyswarm_common.log_drivers import LogLimits
from pyswarm_common.wire import LogLine, LogRequest

LIMITS = LogLimits(max_size_bytes=100, max_files=3, compresses=True)
KEEPING = LogLimits(max_size_bytes=100, max_files=3, compresses=False)


def archives(*forms: str) -> tuple[Archive, ...]:
    """Return archives from 4 on, each `plain`, `packed` or `both`."""
    return tuple(Archive(number, form != "packed", form != "plain") for number, form in enumerate(forms, 4))


@pytest.mark.parametrize(
    ("state", "limits", "steps"),
    [
        (LogState(99), LIMITS, []),
        (LogState(100), LIMITS, [Reserve(), Link(1), Reopen()]),
        (LogState(100, has_reserve=True), LIMITS, [Link(1), Reopen()]),
        (LogState(100, archives("plain")), KEEPING, [Reserve(), Link(5), Reopen()]),
        (LogState(10**9), LogLimits(0, 3, False), []),
        # Under way: conmon was told, or may have been; then, that it certainly was not.
        (LogState(100, archives("plain"), is_linked=True, has_reserve=True), LIMITS, []),
        (LogState(100, archives("plain"), is_linked=True, has_reserve=True, may_reopen=True), LIMITS, [Reopen()]),
        (LogState(100, archives("plain"), is_linked=True, may_reopen=True), LIMITS, [Reserve(), Reopen()]),
        # The container has ended.
        (LogState(500, is_written=False), LIMITS, []),
        (
            LogState(500, archives("plain"), is_linked=True, is_written=False, has_reserve=True),
            LIMITS,
            [Unlink(4), RemoveReserve()],
        ),
        # What is no longer written: the newest archive stays as it is, more than are kept go, oldest first.
        (LogState(1, archives("plain")), LIMITS, []),
        (LogState(1, archives("plain", "plain")), LIMITS, [Compress(4)]),
        (LogState(1, archives("plain", "plain")), KEEPING, []),
        (LogState(1, archives("both", "plain")), LIMITS, [RemovePlain(4)]),
        (LogState(1, archives("packed", "packed", "both", "plain")), LIMITS, [Drop(4), Drop(5), RemovePlain(6)]),
        (LogState(1, archives("packed", "packed", "plain"), is_linked=True), LIMITS, []),
        (LogState(1, archives("packed"), has_partials=True), LIMITS, [ClearPartials()]),
        # One file alone: the newest archive is emptied, as its number is needed.
        (LogState(1, archives("plain")), LogLimits(100, 1, False), [Empty(4)]),
        (LogState(1, archives("plain", "plain")), LogLimits(100, 1, False), [Drop(4), Empty(5)]),
        (LogState(1, archives("plain"), is_newest_empty=True), LogLimits(100, 1, False), []),
    ],
)
def test_steps(state: LogState, limits: LogLimits, steps: list[Step]) -> None:
    assert plan_rotation(state, limits) == steps


ASLEEP, RUNNING, ON_DISK = MonitorGlance(0, "S"), MonitorGlance(0, "R"), MonitorGlance(0, "D")


@pytest.mark.parametrize(
    ("glances", "is_certain"),
    [
        ([], False),
        ([ASLEEP], True),
        ([ASLEEP, MonitorGlance(6, "S")], False),
        ([RUNNING], False),
        ([RUNNING] * PATIENT_GLANCES, True),
        ([RUNNING] * (PATIENT_GLANCES - 1) + [ON_DISK], False),
        ([ON_DISK] * PATIENT_GLANCES, False),
        ([MonitorGlance(0, "T")] * PATIENT_GLANCES, False),
    ],
)
def test_conmon_is_told_again_only_if_it_cannot_have_been(glances: list[MonitorGlance], is_certain: bool) -> None:
    assert is_certainly_not_told(glances) is is_certain


@pytest.fixture(scope="module")
def sleeper() -> Iterator[int]:
    """The number of a process that sleeps, as conmon does between two writes."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


class Crash(BaseException):
    """The daemon is killed."""


class World:
    """A log in a folder, who writes it as conmon does, and the daemon's keeper, which can be killed at each step."""

    def __init__(self, directory: Path, sleeper: int, max_files: int) -> None:
        self.paths = ContainerPaths(directory / "data", directory / "run", "c" * 64)
        self.paths.home.mkdir(parents=True)
        self.paths.bundle.mkdir(parents=True)
        self.files = LogFiles(self.paths.log)
        self.control = self.paths.bundle / "ctl"
        os.mkfifo(self.control)
        self.inbox = os.open(self.control, os.O_RDONLY | os.O_NONBLOCK)
        self.holder = os.open(self.control, os.O_WRONLY)
        self.output = self.paths.log.open("ab", buffering=0)
        self.numbers = itertools.count()
        self.written = 0
        options = {"max-size": "300", "max-file": str(max_files), "compress": str(max_files > 1).lower()}
        config = ContainerConfig(id="c" * 64, log=LogConfig(options=options))
        monitor = ProcessIdentity(pid=sleeper, start_ticks=0)
        self.handle = ContainerHandle(
            self.paths, SavedContainer(record=ContainerRecord(config=config, state="running"), monitor=monitor)
        )
        self.steps_left = -1
        self.keeper = self.new_keeper()
        self.follower = LogWalk(self.files, LogRequest(task_id="", follow=True))
        self.followed = list(self.follower.begin().lines)

    def new_keeper(self) -> LogKeeper:
        return LogKeeper(lambda: [self.handle], ManualClock(), self.perform)

    def perform(self, step: Step, files: LogFiles, control: Path) -> None:
        if self.steps_left == 0:
            raise Crash
        self.steps_left -= 1
        carry_out(step, files, control)

    def write(self, lines: int, parts: int) -> None:
        """Let the container write lines, each in so many parts of records."""
        for _ in range(lines):
            number = next(self.numbers)
            self.written += 1
            words = [f"part{part}." for part in range(parts - 1)] + [str(number)]
            for part, word in enumerate(words):
                flag = "F" if part == parts - 1 else "P"
                self.output.write(f"2024-01-02T03:04:05.{number:09d}+00:00 stdout {flag} {word}\n".encode())

    def write_part(self) -> None:
        """Let the container write the beginning of its next line."""
        self.output.write(b"2024-01-02T03:04:05.000000000+00:00 stdout P begun.\n")

    def hear(self) -> None:
        """Let the monitor take its messages, as conmon does: what has the log's name then is replaced."""
        try:
            messages = os.read(self.inbox, 199)
        except BlockingIOError:
            return
        for _ in range(messages.count(b"\n")):
            self.output.close()
            self.output = self.files.reserve.open("wb", buffering=0)
            self.files.reserve.replace(self.paths.log)

    def tend(self, crash_after: int = -1) -> None:
        """Let the daemon look at the log; it may be killed after so many steps, and is started anew then."""
        self.steps_left = crash_after
        try:
            self.keeper.tend_all([self.handle])
        except Crash:
            self.keeper = self.new_keeper()

    def pack(self) -> None:
        """Compress what can be."""
        for archive in self.files.archives()[:-1]:
            if archive.is_plain:
                compress(self.files, archive.number, lambda: False)

    def follow(self) -> None:
        """Let the follower read what there is."""
        while not self.follower.is_caught_up:
            self.followed += self.follower.next_part(has_ended=False).lines
        self.follower.is_caught_up = False

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self.follower.close()
        self.output.close()
        os.close(self.inbox)
        os.close(self.holder)


def read(files: LogFiles, **request: int | bool | str) -> list[LogLine]:
    walk = LogWalk(files, LogRequest(task_id="", **request))  # type: ignore[arg-type]
    lines = list(walk.begin().lines)
    while not (walk.is_caught_up or walk.is_past_end):
        lines += walk.next_part(has_ended=False).lines
    walk.close()
    return lines


def numbers(lines: list[LogLine]) -> list[int]:
    return [int(line.line.rpartition(b".")[2]) for line in lines]


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 8), st.integers(1, 3)),
        st.tuples(st.just("write_part")),
        st.tuples(st.just("tend"), st.integers(-1, 4)),
        st.tuples(st.just("hear")),
        st.tuples(st.just("pack")),
        st.tuples(st.just("follow")),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(events=EVENTS)
def test_every_line_is_read_once_and_in_order(sleeper: int, events: list[tuple[str, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory, World(Path(directory), sleeper, max_files=1000) as world:
        for name, *arguments in events:
            getattr(world, name)(*arguments)
            assert world.control.exists()
        world.write(1, 1)
        everything = list(range(world.written))
        assert numbers(read(world.files)) == everything
        for _ in range(3):
            world.hear()
            world.tend()
        world.write(1, 1)
        world.follow()
        everything = list(range(world.written))
        assert numbers(read(world.files)) == everything
        assert numbers(world.followed) == everything
        for tail in (0, 1, 5, len(everything) + 1):
            assert numbers(read(world.files, tail=tail)) == everything[len(everything) - min(tail, len(everything)) :]


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, max_files=st.integers(1, 4))
def test_what_is_kept_is_the_end(sleeper: int, events: list[tuple[str, ...]], max_files: int) -> None:
    with tempfile.TemporaryDirectory() as directory, World(Path(directory), sleeper, max_files) as world:
        for name, *arguments in events:
            getattr(world, name)(*arguments)
        for _ in range(4):
            world.hear()
            world.tend()
        world.write(1, 1)
        kept = numbers(read(world.files))
        assert kept == list(range(world.written))[world.written - len(kept) :]
        assert kept
        assert len(world.files.archives()) <= max(1, max_files - 1)
        assert not world.files.partials()


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, cut=st.integers(0, 60))
def test_positions_go_on_where_a_reader_stopped(sleeper: int, events: list[tuple[str, ...]], cut: int) -> None:
    with tempfile.TemporaryDirectory() as directory, World(Path(directory), sleeper, max_files=1000) as world:
        first: list[LogLine] = []
        position = ""
        for number, (name, *arguments) in enumerate(events):
            getattr(world, name)(*arguments)
            if number == cut:
                walk = LogWalk(world.files, LogRequest(task_id="", follow=True))
                part = walk.begin()
                first += part.lines
                while not walk.is_caught_up:
                    part = walk.next_part(has_ended=False)
                    first += part.lines
                position = part.position
                walk.close()
        world.write(1, 1)
        assert numbers(first + read(world.files, after=position)) == list(range(world.written))


def test_an_ended_containers_rotation_is_taken_back(tmp_path: Path, sleeper: int) -> None:
    with World(tmp_path, sleeper, max_files=10) as world:
        world.write(20, 1)
        world.tend()
        assert world.files.plain(1).exists()
        record = world.handle.record
        world.handle.saved = SavedContainer(record=ContainerRecord(config=record.config, state="exited"))
        world.tend()
        assert [path.name for path in world.paths.home.iterdir()] == ["container.log"]
        assert numbers(read(world.files)) == list(range(20))


def test_an_unfinished_rotation_is_finished_by_the_next_daemon(tmp_path: Path, sleeper: int) -> None:
    with World(tmp_path, sleeper, max_files=10) as world:
        world.write(20, 1)
        world.tend(crash_after=2)
        assert world.files.plain(1).stat().st_nlink == 2
        world.write(20, 1)
        world.tend()
        world.hear()
        assert world.files.plain(1).stat().st_nlink == 1
        world.write(20, 1)
        assert numbers(read(world.files)) == list(range(60))


def test_one_odd_log_does_not_keep_others_from_being_rotated(tmp_path: Path, sleeper: int) -> None:
    config = ContainerConfig(id="d" * 64, log=LogConfig(options={"max-size": 5}))  # type: ignore[dict-item]
    paths = ContainerPaths(tmp_path / "odd", tmp_path / "run", "d" * 64)
    odd = ContainerHandle(paths, SavedContainer(record=ContainerRecord(config=config, state="running")))
    with World(tmp_path, sleeper, 3) as world:
        world.write(20, 1)
        world.keeper.tend_all([odd, world.handle])
        assert [archive.number for archive in world.files.archives()] == [1]
