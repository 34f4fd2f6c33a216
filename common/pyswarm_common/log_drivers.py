"""What becomes of a container's output: the drivers there are, their options, and what Docker says of wrong ones. Pure.

`json-file` and `local` keep it in files on the node (in one format; they differ in their defaults), `journald` gives it to the
host's journal, `none` to nobody.

Differences from Docker, on purpose: `json-file` without options keeps 5 files of 100 MB, the older ones compressed, as a log
without a limit fills the disk some day; `max-size=-1` asks for no limit. Options that are not given come from these defaults, not
from `max-file=1`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from pyswarm_common.errors import InvalidArgument, Unimplemented

FILE_DRIVERS = ("json-file", "local")
DRIVERS = (*FILE_DRIVERS, "journald", "none")
DEFAULT_DRIVER = "json-file"
NOT_READABLE = "configured logging driver does not support reading"

_ATTRIBUTE_OPTIONS = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_FILE_OPTIONS = frozenset({"max-size", "max-file", "compress"})
_COMMON_OPTIONS = frozenset({"mode", "max-buffer-size"})
"""Accepted everywhere: here no output waits for the daemon, so a container is never held up by its log."""
_OPTIONS: dict[str, frozenset[str]] = {
    "json-file": _FILE_OPTIONS | _ATTRIBUTE_OPTIONS,
    "local": _FILE_OPTIONS | _ATTRIBUTE_OPTIONS,
    "journald": _ATTRIBUTE_OPTIONS,
}
_UNLIMITED = "-1"
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_DIGITS_MAX = 18
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_TRUE, _FALSE = frozenset({"1", "t", "T", "true", "TRUE", "True"}), frozenset({"0", "f", "F", "false", "FALSE", "False"})
_TAG_FIELD = re.compile(r"\{\{\s*(.*?)\s*\}\}")


@dataclass(frozen=True)
class LogLimits:
    """How much of a log is kept in files: `max_files`, the one that is written included, of about `max_size_bytes` each.

    `max_size_bytes` 0: one file without a limit. `compresses`: whether all but the one that is written are compressed.
    """

    max_size_bytes: int
    max_files: int
    compresses: bool


_DEFAULT_LIMITS = {
    "json-file": LogLimits(max_size_bytes=100_000_000, max_files=5, compresses=True),
    "local": LogLimits(max_size_bytes=20 * 1024 * 1024, max_files=5, compresses=True),
}


def check_log_driver(driver: str, options: Mapping[str, str]) -> None:
    """Refuse what no container could be run with, in Docker's words. Raises InvalidArgument."""
    if driver not in DRIVERS:
        _refuse(f"logger: no log driver named '{driver}' is registered")
    if driver == "none":
        return
    _check_mode(options)
    for name in options:
        if name not in _OPTIONS[driver] | _COMMON_OPTIONS:
            about = f"log driver {driver}" if driver == "local" else f"{driver} log driver"
            _refuse(f"unknown log opt '{name}' for {about}")
    for name in ("labels-regex", "env-regex"):
        _check_expression(options.get(name, ""))
    expand_tag(options.get("tag", ""), lambda _: "")
    if driver in FILE_DRIVERS:
        log_limits(driver, options)


def merged_log_options(
    driver: str, options: Mapping[str, str] | None, default_driver: str, default_options: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Return driver and options as they hold for a container: the node's default where none is named, its options where missing.

    Raises InvalidArgument, as `check_log_driver` does.
    """
    name = driver or default_driver or DEFAULT_DRIVER
    merged = {**(default_options if name == default_driver else {}), **(options or {})}
    check_log_driver(name, merged)
    return name, merged


def log_limits(driver: str, options: Mapping[str, str]) -> LogLimits | None:
    """Return how much is kept in files ("": those of the default driver); None for drivers without. Raises InvalidArgument."""
    default = _DEFAULT_LIMITS.get(driver or DEFAULT_DRIVER)
    if default is None:
        return None
    size_bytes = _max_size(options["max-size"]) if "max-size" in options else default.max_size_bytes
    files = _max_file(options["max-file"]) if "max-file" in options else default.max_files
    compresses = _flag("compress", options["compress"]) if "compress" in options else default.compresses
    rotates = files > 1 and size_bytes > 0
    if compresses and not rotates and "compress" in options:
        _refuse("compress cannot be true when max-file is less than 2 or max-size is not set")
    return LogLimits(max_size_bytes=size_bytes, max_files=files, compresses=compresses and rotates)


def log_attributes(options: Mapping[str, str], labels: Mapping[str, str], env: tuple[str, ...], tag: str) -> dict[str, str]:
    """Return what `logs --details` shows of a container: the labels and variables that the options choose, and its tag."""
    variables = dict(variable.partition("=")[::2] for variable in env)
    attributes = _chosen(labels, options.get("labels", ""), options.get("labels-regex", ""))
    attributes |= _chosen(variables, options.get("env", ""), options.get("env-regex", ""))
    return attributes | ({"tag": tag} if tag else {})


def expand_tag(template: str, value_of: Callable[[str], str | None]) -> str:
    """Return a tag such as `{{.Name}}/{{.ID}}` with its fields filled in. Raises InvalidArgument for others than Docker's."""

    def value(match: re.Match[str]) -> str:
        name = match[1].removeprefix(".")
        found = value_of(name) if name in TAG_FIELDS else None
        if found is None:
            known = ", ".join(f"{{{{.{field}}}}}" for field in TAG_FIELDS)
            _refuse(f"invalid log tag {template!r}: {match[0]} is unknown, known are {known}")
        return found

    return _TAG_FIELD.sub(value, template)


TAG_FIELDS = ("ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName")


def not_readable() -> Unimplemented:
    """Return the error for the log of a driver that keeps nothing."""
    return Unimplemented(NOT_READABLE)


def _chosen(values: Mapping[str, str], names: str, expression: str) -> dict[str, str]:
    wanted = {name for name in names.split(",") if name}
    matches = re.compile(expression).search if expression else lambda _: None
    return {name: value for name, value in values.items() if name in wanted or matches(name)}


def _check_mode(options: Mapping[str, str]) -> None:
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        _refuse(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            _refuse("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        if _size_bytes(options["max-buffer-size"], 1024) is None:
            _refuse(f"error parsing option max-buffer-size: invalid size: '{options['max-buffer-size']}'")


def _check_expression(expression: str) -> None:
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        _refuse(f"error parsing regexp: {error}: `{expression}`")


def _max_size(text: str) -> int:
    """Return a size in bytes (powers of 1000, as Docker has it here), 0 for unlimited."""
    if text == _UNLIMITED:
        return 0
    size_bytes = _size_bytes(text, 1000)
    if size_bytes is None:
        _refuse(f"invalid value for max-size: invalid size: '{text}'; give it as 10m or 1g, or -1 for no limit")
    if size_bytes <= 0:
        _refuse("max-size must be a positive number")
    return size_bytes


def _max_file(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text) or len(text) > _DIGITS_MAX:
        _refuse(f"invalid value for max-file: {text}: it must be a number")
    if int(text) < 1:
        _refuse("max-file cannot be less than 1")
    return int(text)


def _flag(name: str, text: str) -> bool:
    if text not in _TRUE | _FALSE:
        _refuse(f"invalid value for {name}: {text}: it must be true or false")
    return text in _TRUE


def _size_bytes(text: str, base: int) -> int | None:
    match = _SIZE.fullmatch(text.strip())
    return None if match is None or len(text) > _DIGITS_MAX else int(float(match[1]) * base ** _POWERS[match[2].lower()])


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument(message)
