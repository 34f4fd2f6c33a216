"""The OCI `process` of a further process in a container, made from that of its first process; pure.

Everything that is not asked for is as the first process has it: rights, limits, variables. Source: Moby
`daemon/exec_linux.go` and `daemon/exec.go`.
"""

from collections.abc import Iterable
from typing import Any

from pyswarm_agent.runtime.access.interface import ExecConfig, TerminalSize
from pyswarm_agent.runtime.process_user import ProcessUser

Json = dict[str, Any]


def exec_process(
    first: Json,
    config: ExecConfig,
    user: ProcessUser,
    *,
    sets_home: bool,
    privileged_capabilities: Iterable[str] = (),
    size: TerminalSize | None = None,
) -> Json:
    """Return the process for `crun exec --process`.

    `first`: the `process` of the container's config.json. `sets_home`: whether HOME there was made for the first process's
    user rather than asked for. `privileged_capabilities`: all that this host can give.
    """
    process = {
        **first,
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": [user.gid, *user.additional_gids], "umask": 0o022},
        "args": list(config.args),
        "env": _environment(first.get("env", []), config, user, sets_home),
        "cwd": config.cwd or first.get("cwd", "/"),
    }
    process.pop("consoleSize", None)
    if config.tty and size is not None:
        process["consoleSize"] = {"height": size.rows, "width": size.columns}
    if config.is_privileged:
        held = sorted(privileged_capabilities)
        process["capabilities"] = {"bounding": held, "permitted": held, "effective": held}
        process.pop("apparmorProfile", None)
    return process


def _environment(inherited: Iterable[str], config: ExecConfig, user: ProcessUser, sets_home: bool) -> list[str]:
    variables = {name: value for name, _, value in (text.partition("=") for text in inherited)}
    if sets_home:
        variables.pop("HOME", None)
    if config.tty:
        variables.setdefault("TERM", "xterm")
    for text in config.env:
        name, equals, value = text.partition("=")
        if equals:
            variables[name] = value
        else:
            variables.pop(name, None)
    variables.setdefault("HOME", user.home)
    return [f"{name}={value}" for name, value in variables.items()]
