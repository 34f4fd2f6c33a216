"""Why a container could not be started, from the OCI runtime's words to Docker's; pure."""

import re
from collections.abc import Sequence

from pyswarm_agent.runtime.interface import ContainerStartFailed

NOT_FOUND, NOT_EXECUTABLE, OTHER = 127, 126, 128
_LEVEL = re.compile(r'^(time="[^"]*" level=\w+ msg="|[\d:TZ.+-]+: )')


def container_start_failed(complaint: str, args: Sequence[str]) -> ContainerStartFailed:
    """Return the error for what crun or runc has written when it could not start `args`."""
    text = _bare(complaint)
    lower = text.lower()
    program = args[0] if args else ""
    if "executable file" in lower and "not found" in lower:
        reason = f"stat {program}: no such file or directory" if "/" in program else "executable file not found in $PATH"
        return _cannot_exec(program, reason, NOT_FOUND)
    if "permission denied" in lower and ("exec" in lower or program in text):
        return _cannot_exec(program, "permission denied", NOT_EXECUTABLE)
    if lower.startswith("open executable"):  # of a folder
        return _cannot_exec(program, "permission denied", NOT_EXECUTABLE)
    return ContainerStartFailed(f"OCI runtime create failed: {text or 'no reason given'}: unknown", OTHER)


def exec_start_failed(complaint: str, args: Sequence[str]) -> ContainerStartFailed:
    """Return the error for what crun or runc has written when it could not start `args` in a container that runs."""
    text = _bare(complaint)
    lower = text.lower()
    if lower.startswith("chdir"):
        error = ContainerStartFailed(f"OCI runtime create failed: {text}: unknown", NOT_FOUND)
    else:
        error = container_start_failed(complaint, args)
    message = error.message.replace("OCI runtime create failed:", "OCI runtime exec failed: exec failed:", 1)
    return ContainerStartFailed(message, error.exit_code)


def _cannot_exec(program: str, reason: str, exit_code: int) -> ContainerStartFailed:
    message = f'OCI runtime create failed: unable to start container process: exec: "{program}": {reason}: unknown'
    return ContainerStartFailed(message, exit_code)


def _bare(complaint: str) -> str:
    """Return the last line without time stamps and levels."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    return _LEVEL.sub("", lines[-1]).rstrip('"') if lines else ""
