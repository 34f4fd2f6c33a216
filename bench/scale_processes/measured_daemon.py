#!/usr/bin/env python3
"""pyswarmd that measures itself: `measured_daemon.py FOLDER ARGUMENTS…` writes a line of figures per second to FOLDER/HOSTNAME.

What is measured, each second: the longest times by which the event loop was late (milliseconds of the wall clock, and of the CPU
that it had meanwhile: where these differ much, something else had the machine), what it was doing when it was late, the time that
the garbage collector took, the longest of some steps of the loop (CPU milliseconds), how many signs of life of nodes were taken in,
the longest time without one of a node that then came, in the node's heartbeat periods, and how many came after their deadline.
"""

import asyncio
import functools
import gc
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from pyswarm_node import main as node_main

PROBE_S = 0.005
LATE_S = 0.05
WORST_KEPT = 5
FRAMES_KEPT = 4

P = ParamSpec("P")
T = TypeVar("T")


class Measurement:
    """The figures of the second under way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._heard_s: dict[str, float] = {}
        self._beat_s = time.monotonic()
        self._main_thread = threading.get_ident()
        self._clear()

    def _clear(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._stacks: Counter[str] = Counter()
        self._heartbeats = 0
        self._missed = 0
        self._longest_gap = 0.0
        self._collecting_s = 0.0
        self._longest_collection_s = 0.0
        self._longest_steps_s: dict[str, float] = {}

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function with the CPU time of each call noted."""

        @functools.wraps(function)
        def call(*arguments: P.args, **more: P.kwargs) -> T:
            began_s = time.thread_time()
            try:
                return function(*arguments, **more)
            finally:
                self._longest_steps_s[name] = max(self._longest_steps_s.get(name, 0.0), time.thread_time() - began_s)

        return call

    def collector_turned(self, phase: str, _: dict[str, int]) -> None:
        """The garbage collector begins or ends."""
        if phase == "start":
            self._collection_began_s = time.thread_time()
        else:
            seconds = time.thread_time() - self._collection_began_s
            self._collecting_s += seconds
            self._longest_collection_s = max(self._longest_collection_s, seconds)

    def heard(self, node_id: str, now_s: float, period_s: float, grace_periods: float) -> None:
        """A sign of life of a node was taken in."""
        gap = (now_s - self._heard_s.get(node_id, now_s)) / period_s
        self._heard_s[node_id] = now_s
        self._heartbeats += 1
        self._longest_gap = max(self._longest_gap, gap)
        self._missed += gap > grace_periods

    def forget(self, node_id: str) -> None:
        """The node is gone, or its manager does not lead any more."""
        self._heard_s.pop(node_id, None)

    async def run(self) -> None:
        """Probe the loop until cancelled."""
        threading.Thread(target=self._watch, daemon=True).start()
        written_s = time.monotonic()
        while True:
            began_s, began_cpu_s = time.monotonic(), time.thread_time()
            await asyncio.sleep(PROBE_S)
            self._beat_s = now_s = time.monotonic()
            late_s = now_s - began_s - PROBE_S
            if late_s > PROBE_S:
                self._late.append((late_s, time.thread_time() - began_cpu_s))
            if now_s - written_s >= 1.0:
                written_s = now_s
                self._write()

    def _write(self) -> None:
        worst = sorted(self._late, reverse=True)[:WORST_KEPT]
        line = {
            "at_s": time.time(),
            "late_ms": [[round(1000 * wall), round(1000 * cpu)] for wall, cpu in worst],
            "late_count": sum(wall > LATE_S for wall, _ in self._late),
            "stacks": dict(self._stacks.most_common(WORST_KEPT)),
            "collecting_ms": round(1000 * self._collecting_s, 1),
            "longest_collection_ms": round(1000 * self._longest_collection_s, 1),
            "longest_steps_ms": {name: round(1000 * seconds, 1) for name, seconds in self._longest_steps_s.items()},
            "heartbeats": self._heartbeats,
            "missed_heartbeats": self._missed,
            "longest_gap_periods": round(self._longest_gap, 2),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._clear()

    def _watch(self) -> None:
        """In a thread: note where the loop stands whenever it is late."""
        while True:
            time.sleep(2 * PROBE_S)
            if time.monotonic() - self._beat_s > LATE_S:
                self._stacks[_describe(sys._current_frames().get(self._main_thread))] += 1


def _describe(frame: FrameType | None) -> str:
    names: list[str] = []
    while frame is not None and len(names) < FRAMES_KEPT:
        name = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}"
        if "pyswarm" in frame.f_code.co_filename or not names:
            names.append(name)
        frame = frame.f_back
    return " < ".join(names)


def measure(path: Path) -> None:
    """Let the daemon that this process will run measure itself."""
    from pyswarm_manager.dispatcher import liveness
    from pyswarm_manager.dispatcher.loop import Dispatcher
    from pyswarm_manager.store.batch import Batch
    from pyswarm_manager.store.mirror import Mirror
    from pyswarm_manager.store.writer import Writer
    from pyswarm_node import running

    run, heard, forget = running._run, liveness.Liveness.heard, liveness.Liveness.forget
    measurement = Measurement(path)

    def heard_and_noted(self: liveness.Liveness, node_id: str, now_s: float) -> None:
        measurement.heard(node_id, now_s, self.heartbeat_period_s, liveness.GRACE_PERIODS)
        heard(self, node_id, now_s)

    def forgotten_and_noted(self: liveness.Liveness, node_id: str) -> None:
        measurement.forget(node_id)
        forget(self, node_id)

    async def run_measured(config: Any) -> None:
        gc.callbacks.append(measurement.collector_turned)
        probing = asyncio.ensure_future(measurement.run())
        try:
            await run(config)
        finally:
            probing.cancel()

    for type_, name in ((Writer, "_build_batch"), (Batch, "operations"), (Mirror, "apply"), (Dispatcher, "_flush")):
        setattr(type_, name, measurement.timed(f"{type_.__name__}.{name}", getattr(type_, name)))
    running._run = run_measured
    liveness.Liveness.heard = heard_and_noted  # type: ignore[method-assign]
    liveness.Liveness.forget = forgotten_and_noted  # type: ignore[method-assign]


def main() -> None:
    """Run pyswarmd with the rest of the arguments."""
    folder = sys.argv.pop(1)
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    node_main.refuse_unused_extras()
    measure(Path(folder) / socket.gethostname())
    node_main.main()


if __name__ == "__main__":
    main()
