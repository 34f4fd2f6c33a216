"""Runs the daemon in this process: logging, signals, event loop."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Iterator
from typing import Any

import structlog
import uvloop

from pyswarm_common.clock import SystemClock
from pyswarm_node.api.app import create_app
from pyswarm_node.config import DaemonConfig
from pyswarm_node.daemon import Daemon
from pyswarm_node.event_loop import DaemonLoop
from pyswarm_node.swarm_control import SwarmControl


def run_daemon(config: DaemonConfig, log_level: str) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises PyswarmError when it cannot start."""
    configure_logging(log_level)
    gc.freeze()  # the modules stay for good: a full collection, which halts the event loop, need not look at them
    uvloop.run(_run(config), loop_factory=DaemonLoop)


def configure_logging(level: str) -> None:
    """Write one line per event to stderr: readable on a terminal, JSON otherwise."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    for chatty in ("uvicorn", "httpx", "httpcore", "websockets"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def log_task_stacks() -> None:
    """On SIGUSR1: write to the log where each asyncio task stands, for whoever has to find out why something hangs."""
    for task in asyncio.all_tasks():
        structlog.get_logger().info("task.stack", name=task.get_name(), stack=list(_frames(task.get_coro())))


def _frames(awaited: Any) -> Iterator[str]:
    """Yield where a suspended coroutine stands, outermost first: `Task.get_stack` shows that one alone."""
    while awaited is not None:
        frame = next((f for name in ("cr_frame", "gi_frame", "ag_frame") if (f := getattr(awaited, name, None))), None)
        if frame is not None:
            yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
        awaited = next((a for name in ("cr_await", "gi_yieldfrom", "ag_await") if (a := getattr(awaited, name, None))), None)


async def _run(config: DaemonConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, log_task_stacks)
    await Daemon(config, SystemClock()).run(lambda daemon: create_app(SwarmControl(daemon)), stop)
