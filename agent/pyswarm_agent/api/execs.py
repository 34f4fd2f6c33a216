"""The routes of processes that clients start in containers."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import agent_of
from pyswarm_agent.api.container_reference import container_of
from pyswarm_agent.api.conversation import Conversation
from pyswarm_agent.api.terminal_size import asked_size, console_size
from pyswarm_agent.execs import Exec, ExecDescription, ExecStore
from pyswarm_agent.runtime.access.interface import STDERR, STDOUT, ExecConfig, TerminalSize
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_common.detach_keys import parse_detach_keys
from pyswarm_common.engine_api.hijack import HijackResponse, RawConnection
from pyswarm_common.engine_api.responses import JSONResponse, read_json_object
from pyswarm_common.engine_api.streams import frame
from pyswarm_common.errors import InvalidArgument, PyswarmError

router = APIRouter()

EXIT_CODES_OF_REQUESTS = (126, 127)
"""Those for which it is the request that was wrong."""


@router.post("/containers/{reference}/exec")
async def create_exec(request: Request, reference: str) -> Response:
    """Describe a process that is to run in a container."""
    body = await read_json_object(request)
    container = container_of(request, reference)
    made = agent_of(request).execs.create(container.config.id, exec_description(body))
    return JSONResponse({"Id": made.id}, status_code=201)


@router.post("/exec/{exec_id}/start")
async def start_exec(request: Request, exec_id: str) -> Response:
    """Start it, and join its streams with the connection unless `Detach` is asked."""
    body = await read_json_object(request)
    execs = agent_of(request).execs
    wanted = execs.get(exec_id)
    size = console_size(body.get("ConsoleSize"))
    execs.check_startable(wanted)
    if body.get("Detach"):
        await _start_detached(execs, wanted, size)
        return Response(status_code=200)
    detach_keys = parse_detach_keys(wanted.description.detach_keys)
    is_raw = bool(body.get("Tty"))

    async def talk(connection: RawConnection) -> None:
        await _converse(connection, execs, wanted, size, detach_keys, is_raw)

    return HijackResponse(talk)


@router.get("/exec/{exec_id}/json")
async def inspect_exec(request: Request, exec_id: str) -> Response:
    """Show one, until some minutes after its end."""
    return JSONResponse(render_exec(agent_of(request).execs.get(exec_id)))


@router.post("/exec/{exec_id}/resize")
async def resize_exec(request: Request, exec_id: str) -> Response:
    """Tell its terminal's size."""
    execs = agent_of(request).execs
    wanted, size = execs.get(exec_id), asked_size(request)
    await execs.resize(wanted, size)
    return Response(status_code=200)


def exec_description(body: dict[str, Any]) -> ExecDescription:
    """Return what a request's body describes; pure. Raises InvalidArgument."""
    args = body.get("Cmd") or []
    if isinstance(args, str):
        args = [args]
    if not args:
        raise InvalidArgument("No exec command specified")
    keys = str(body.get("DetachKeys") or "")
    parse_detach_keys(keys)
    config = ExecConfig(
        args=tuple(map(str, args)),
        env=tuple(map(str, body.get("Env") or ())),
        user=str(body.get("User") or ""),
        cwd=str(body.get("WorkingDir") or ""),
        tty=bool(body.get("Tty")),
        takes_input=bool(body.get("AttachStdin")),
        is_privileged=bool(body.get("Privileged")),
    )
    return ExecDescription(
        config=config,
        attaches_stdout=bool(body.get("AttachStdout")),
        attaches_stderr=bool(body.get("AttachStderr")),
        detach_keys=keys,
    )


def render_exec(shown: Exec) -> dict[str, Any]:
    """Return an exec as inspect shows it; pure."""
    description, config = shown.description, shown.description.config
    return {
        "ID": shown.id,
        "Running": shown.is_running,
        "ExitCode": shown.exit_code,
        "ProcessConfig": {
            "tty": config.tty,
            "entrypoint": config.args[0],
            "arguments": list(config.args[1:]),
            "privileged": config.is_privileged,
            **({"user": config.user} if config.user else {}),
        },
        "OpenStdin": config.takes_input,
        "OpenStderr": description.attaches_stderr,
        "OpenStdout": description.attaches_stdout,
        "CanRemove": shown.exit_code is not None,
        "ContainerID": shown.container_id,
        "DetachKeys": description.detach_keys,
        "Pid": shown.execution.pid if shown.execution is not None else 0,
    }


async def _start_detached(execs: ExecStore, wanted: Exec, size: TerminalSize | None) -> None:
    try:
        execution = await execs.start(wanted, size)
    except ContainerStartFailed as error:
        if error.exit_code in EXIT_CODES_OF_REQUESTS:
            raise InvalidArgument(error.message) from error
        raise
    await execution.close()


async def _converse(
    connection: RawConnection, execs: ExecStore, wanted: Exec, size: TerminalSize | None, detach_keys: bytes, is_raw: bool
) -> None:
    try:
        execution = await execs.start(wanted, size)
    except PyswarmError as error:
        # The answer's head has been sent: clients show what comes here, and then ask for the exit code.
        text = f"{error.message}\r\n".encode()
        await connection.write(text if is_raw else frame(STDOUT, text))
        return
    description = wanted.description
    streams = {STDOUT: description.attaches_stdout, STDERR: description.attaches_stderr}
    config = description.config
    conversation = Conversation(
        connection,
        execution,
        wanted=[stream for stream, is_wanted in streams.items() if is_wanted],
        is_raw=is_raw,
        takes_input=config.takes_input,
        detach_keys=detach_keys if config.tty else b"",
        until=wanted.ended.wait,
    )
    await conversation.run()
