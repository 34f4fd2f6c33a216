"""Reads a scenario from TOML. What is wrong is told with its line, its key, and what is allowed there."""

import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from pyswarm_common.errors import InvalidArgument
from pyswarm_manager.simulator.amount_types import read_amount
from pyswarm_manager.simulator.scenario import (
    EVENT_TYPES,
    Behaviour,
    Event,
    NetworkSection,
    NodeEvent,
    NodeGroup,
    Scenario,
    Section,
    ServiceEvent,
    ServiceSection,
    Settings,
)

T = TypeVar("T", bound=Section)
_SECTIONS = ("simulation", "agents", "nodes", "networks", "services", "events")
_PLACE = re.compile(r"(?s)(.*?)(?: - at `\$(?:\.(.*))?`)?")
_UNKNOWN_KEY = re.compile(r"Object contains unknown field `(.*)`")
_MISSING_KEY = re.compile(r"Object missing required field `(.*)`")


def read_scenario(text: str, name: str = "FILE") -> Scenario:
    """Return the scenario that this TOML describes. Raises InvalidArgument: `NAME line 7: services[2].replicas: …`."""
    return _Reader(text, name).read()


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self._lines = text.splitlines()
        self._text = text
        self._name = name

    def read(self) -> Scenario:
        try:
            raw = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise InvalidArgument(f"{self._name}: this is not TOML: {error}") from error
        for word in raw:
            if word not in _SECTIONS:
                raise self._error(word, 0, "", f"there is no such section; there are {', '.join(_SECTIONS)}")
        scenario = Scenario(
            simulation=self._one(Settings, raw, "simulation"),
            agents=self._one(Behaviour, raw, "agents"),
            nodes=tuple(self._all(NodeGroup, raw, "nodes")),
            networks=tuple(self._all(NetworkSection, raw, "networks")),
            services=tuple(self._all(ServiceSection, raw, "services")),
            events=tuple(sorted(self._events(raw), key=lambda event: event.at)),
        )
        self._check_names(scenario, raw)
        return scenario

    def _one(self, type_: type[T], raw: Mapping[str, Any], section: str) -> T:
        value = raw.get(section, {})
        if not isinstance(value, dict):
            raise self._error(section, 0, "", f"must be a table: write [{section}]")
        return self._convert(type_, value, section, 0)

    def _all(self, type_: type[T], raw: Mapping[str, Any], section: str) -> Iterable[T]:
        for number, value in enumerate(self._list(raw, section), 1):
            yield self._convert(type_, value, section, number)

    def _list(self, raw: Mapping[str, Any], section: str) -> list[Any]:
        value = raw.get(section, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._error(section, 0, "", f"must be a list of tables: write [[{section}]]")
        return value

    def _events(self, raw: Mapping[str, Any]) -> Iterable[Event]:
        for number, value in enumerate(self._list(raw, "events"), 1):
            word = value.get("do")
            if word not in EVENT_TYPES:
                said = "missing" if word is None else f"{word!r} is not known"
                raise self._error("events", number, "do", f"{said}; allowed are {', '.join(EVENT_TYPES)}")
            fields = {key: item for key, item in value.items() if key != "do"}
            yield self._convert(EVENT_TYPES[word], fields, "events", number)

    def _convert(self, type_: type[T], value: Mapping[str, Any], section: str, number: int) -> T:
        try:
            return msgspec.convert(value, type_, dec_hook=read_amount)
        except msgspec.ValidationError as error:
            match = _PLACE.fullmatch(str(error))
            message, path = (match[1], match[2] or "") if match else (str(error), "")
            path = path.replace("[...]", "")
            if unknown := _UNKNOWN_KEY.fullmatch(message):
                message = f"there is no such key; allowed are {', '.join(_keys(_type_at(type_, path)))}"
                path = f"{path}.{unknown[1]}".lstrip(".")
            elif missing := _MISSING_KEY.fullmatch(message):
                message, path = "must be given", f"{path}.{missing[1]}".lstrip(".")
            elif words := _words(_type_at(type_, path)):
                message = f"{message}; allowed are {', '.join(words)}"
            raise self._error(section, number, path, message) from error

    def _check_names(self, scenario: Scenario, raw: Mapping[str, Any]) -> None:
        groups, services = [g.name for g in scenario.nodes], [s.name for s in scenario.services]
        for section, names in (("nodes", groups), ("services", services)):
            for number, name in enumerate(names, 1):
                if name in names[: number - 1]:
                    raise self._error(section, number, "name", f"{name!r} is the name of two sections")
        for section, counts in (("nodes", [g.count for g in scenario.nodes]), ("services", [s.count for s in scenario.services])):
            for number, count in enumerate(counts, 1):
                if count < 0:
                    raise self._error(section, number, "count", "must not be negative")
        for number, value in enumerate(raw.get("events", ()), 1):
            type_ = EVENT_TYPES[value["do"]]
            if issubclass(type_, ServiceEvent) and not _is_named(value["service"], services):
                raise self._error("events", number, "service", f"there is no service {value['service']!r}: {', '.join(services)}")
            if issubclass(type_, NodeEvent) and not _is_named(value["nodes"], groups):
                raise self._error("events", number, "nodes", f"there are no nodes {value['nodes']!r}: {', '.join(groups)}")

    def _error(self, section: str, number: int, path: str, message: str) -> InvalidArgument:
        key = (f"{section}[{number}]" if number else section) + (f".{path}" if path else "")
        line = _line_of(self._lines, section, number, path)
        return InvalidArgument(f"{self._name}{f' line {line}' if line else ''}: {key}: {message}")


def _is_named(reference: str, names: Iterable[str]) -> bool:
    """Whether it is one of these names, or NAME-NUMBER."""
    name, _, number = reference.rpartition("-")
    return reference in names or (name in names and number.isdigit())


def _line_of(lines: list[str], section: str, number: int, path: str) -> int:
    """The line, from 1, of a key in the NUMBERth table of a section, or of what it is in; 0 when it is not found."""
    header = re.compile(rf"\s*\[\[?\s*{re.escape(section)}\s*\]\]?")
    begins = [at for at, line in enumerate(lines) if header.match(line)]
    if not begins:
        plain = re.compile(rf"\s*\[*{re.escape(section)}\b")
        return next((at + 1 for at, line in enumerate(lines) if plain.match(line)), 0)
    begin = begins[max(number, 1) - 1] if number <= len(begins) else begins[-1]
    other = re.compile(rf"\s*\[(?!{re.escape(section)}\.)")
    end = next((at for at in range(begin + 1, len(lines)) if other.match(lines[at])), len(lines))
    for key in reversed(path.split(".")):
        pattern = re.compile(rf"(?:^|[\s{{,.\[]){re.escape(key)}\"?\s*(?:=|\])")
        for at in range(begin + 1, end):
            if key and pattern.search(lines[at]):
                return at + 1
    return begin + 1


def _type_at(type_: Any, path: str) -> Any:
    """The type of a key such as `restart_policy.delay`."""
    for key in filter(None, path.split(".")):
        fields = {f.name: f.type for f in msgspec.structs.fields(type_)} if _is_section(type_) else {}
        type_ = _without_none(fields.get(key))
    return type_


def _without_none(type_: Any) -> Any:
    if get_origin(type_) is types.UnionType:
        return next(member for member in get_args(type_) if member is not types.NoneType)
    return type_


def _is_section(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, Section)


def _keys(type_: Any) -> list[str]:
    return [field.name for field in msgspec.structs.fields(type_)] if _is_section(type_) else []


def _words(type_: Any) -> list[str]:
    return [str(word) for word in get_args(type_)] if get_origin(type_) is Literal else []
