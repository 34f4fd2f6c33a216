"""The Dockerfile instructions that `docker import --change` takes: what they do to an image's run configuration. Pure."""

import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from pyswarm_common.errors import InvalidArgument

RunConfig = dict[str, Any]
_PORT = re.compile(r"\d+(-\d+)?(/(tcp|udp|sctp))?")
_SHELL = ["/bin/sh", "-c"]


def apply_changes(config: RunConfig, changes: Iterable[str]) -> RunConfig:
    """Return the configuration with the changes, each an instruction such as `CMD ["nginx"]` or `ENV LEVEL=debug`.

    Raises InvalidArgument, in Docker's words.
    """
    changed = dict(config)
    for change in changes:
        for line in change.splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                _apply(changed, line.strip())
    return changed


def _apply(config: RunConfig, line: str) -> None:
    word, _, rest = line.partition(" ")
    instruction, rest = word.upper(), rest.strip()
    change = _INSTRUCTIONS.get(instruction)
    if change is None:
        raise InvalidArgument(f"{instruction} is not a valid change command")
    if not rest:
        raise InvalidArgument(f"{instruction} requires at least one argument")
    change(config, rest)


def _command(config: RunConfig, key: str, text: str) -> None:
    config[key] = _json_words(text) or [*_SHELL, text]


def _entrypoint(config: RunConfig, text: str) -> None:
    _command(config, "Entrypoint", text)
    config.pop("Cmd", None)


def _environment(config: RunConfig, text: str) -> None:
    variables = dict(pair.partition("=")[::2] for pair in config.get("Env") or ())
    variables |= _pairs("ENV", text)
    config["Env"] = [f"{name}={value}" for name, value in variables.items()]


def _labels(config: RunConfig, text: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **_pairs("LABEL", text)}


def _ports(config: RunConfig, text: str) -> None:
    ports = config.setdefault("ExposedPorts", {})
    for port in text.split():
        if not _PORT.fullmatch(port):
            raise InvalidArgument(f"invalid containerPort: {port}")
        ports[port if "/" in port else f"{port}/tcp"] = {}


def _volumes(config: RunConfig, text: str) -> None:
    config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in _json_words(text) or text.split()}}


def _on_build(config: RunConfig, text: str) -> None:
    config["OnBuild"] = [*(config.get("OnBuild") or ()), text]


def _health_check(config: RunConfig, text: str) -> None:
    if text.upper() == "NONE":
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    word, _, command = text.partition(" ")
    if word.upper() != "CMD" or not command.strip():
        raise InvalidArgument("HEALTHCHECK: only NONE and CMD without options can be set by a change")
    words = _json_words(command.strip())
    config["Healthcheck"] = {"Test": ["CMD", *words] if words else ["CMD-SHELL", command.strip()]}


def _setting(key: str) -> Callable[[RunConfig, str], None]:
    def change(config: RunConfig, text: str) -> None:
        config[key] = text

    return change


_INSTRUCTIONS: dict[str, Callable[[RunConfig, str], None]] = {
    "CMD": lambda config, text: _command(config, "Cmd", text),
    "ENTRYPOINT": _entrypoint,
    "ENV": _environment,
    "EXPOSE": _ports,
    "HEALTHCHECK": _health_check,
    "LABEL": _labels,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _setting("StopSignal"),
    "USER": _setting("User"),
    "VOLUME": _volumes,
    "WORKDIR": _setting("WorkingDir"),
}


def _json_words(text: str) -> list[str] | None:
    """Return the words of the exec form, None where it is the shell form."""
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        return None


def _pairs(instruction: str, text: str) -> dict[str, str]:
    """Return `A=b C="d e"`, or the older `A b c`."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f"{instruction}: {error}: {text}") from error
    if "=" not in words[0]:
        name, _, value = text.partition(" ")
        if not value:
            raise InvalidArgument(f"{instruction} must have two arguments")
        return {name: value.strip()}
    for word in words:
        if "=" not in word:
            raise InvalidArgument(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
    return dict(word.partition("=")[::2] for word in words)
