"""Starts a container with our terminal, or pipes, joined to it, and tells how it ended."""

import threading
from typing import Any, NamedTuple

import click

from pyswarm_cli.container.conversation import converse, detach_filter
from pyswarm_cli.container.signals import forwarded_signals
from pyswarm_cli.engine import EngineClient, EngineError

FAILED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127
_NOT_FOUND_WORDS = ("executable file not found", "no such file or directory")
_NOT_EXECUTABLE_WORDS = ("permission denied", "is a directory")


class Attached(NamedTuple):
    """How we are joined to a container; `is_removed`: it is removed when it ends."""

    has_terminal: bool
    sends_input: bool
    is_removed: bool
    detach_keys: str | None
    forwards_signals: bool


class StartFailed(EngineError):
    """The container could not be started; `code_of_run` is what `run` ends with, as docker's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        if any(words in message for words in _NOT_FOUND_WORDS):
            self.code_of_run = _NOT_FOUND
        else:
            self.code_of_run = _NOT_EXECUTABLE if any(words in message for words in _NOT_EXECUTABLE_WORDS) else FAILED


def start_container(engine: EngineClient, container_id: str) -> None:
    """Start a container. Raises StartFailed."""
    try:
        engine.post("containers", container_id, "start")
    except EngineError as error:
        raise StartFailed(error.status, error.message) from None


def run_attached(engine: EngineClient, container_id: str, how: Attached) -> int:
    """Start the container, carry its streams, and return its exit code (0 when it was let go of)."""
    keys = detach_filter(how.detach_keys) if how.has_terminal else None
    query = {"stream": True, "stdin": how.sends_input, "stdout": True, "stderr": True, "detachKeys": how.detach_keys}
    ending = _Ending(engine.host, container_id, "removed" if how.is_removed else "next-exit")
    with engine.take_over("containers", container_id, "attach", **query) as stream:
        ending.wait_asked()
        start_container(engine, container_id)
        with forwarded_signals(engine, ("containers", container_id), active=how.forwards_signals):
            converse(
                stream,
                has_terminal=how.has_terminal,
                sends_input=how.sends_input,
                resize=lambda rows, columns: engine.post("containers", container_id, "resize", h=rows, w=columns),
                keys=keys,
            )
            return 0 if keys is not None and keys.is_detached else ending.exit_code()


class _Ending:
    """Asks for the container's end before it begins, lest a short one is missed."""

    def __init__(self, host: str, container_id: str, condition: str) -> None:
        self._asked = threading.Event()
        self._answer: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._wait, args=(host, container_id, condition), daemon=True)
        self._thread.start()

    def wait_asked(self) -> None:
        """Return once the daemon has the question."""
        self._asked.wait()

    def exit_code(self) -> int:
        """Return the exit code, once the container has ended. Raises click.ClickException."""
        self._thread.join()
        problem = (self._answer.get("Error") or {}).get("Message")
        if problem:
            raise click.ClickException(problem)
        return int(self._answer["StatusCode"])

    def _wait(self, host: str, container_id: str, condition: str) -> None:
        engine = EngineClient(host)
        try:
            with engine.stream("POST", "containers", container_id, "wait", condition=condition) as response:
                self._asked.set()
                self._answer = read_ending(response.read(), host)
        except click.ClickException as error:
            self._answer = {"Error": {"Message": error.message}}
        except OSError as error:
            self._answer = {"Error": {"Message": f"lost the connection to pyswarmd on {host}: {error}"}}
        finally:
            self._asked.set()


def read_ending(answer: bytes, host: str) -> dict[str, Any]:
    """Return what `wait` has answered. Raises click.ClickException when the daemon went away first."""
    import json

    if not answer.strip():
        raise click.ClickException(f"lost the connection to pyswarmd on {host} before the container ended")
    ending: dict[str, Any] = json.loads(answer)
    return ending
