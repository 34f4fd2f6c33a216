"""A click group that imports a command only when it is used, so that every command starts fast."""

import importlib
from typing import Any, NamedTuple, cast

import click

_ALIASES = {"list": "ls", "remove": "rm"}


class LazyCommand(NamedTuple):
    """Where a command is (`package.module:attribute`), and what the group's help says of it."""

    place: str
    help: str


class LazyGroup(click.Group):
    """Shows and finds commands by name; `list` and `remove` mean `ls` and `rm`, as with docker."""

    def __init__(self, *args: Any, lazy: dict[str, LazyCommand] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were given, those added at once after them."""
        return [*self._lazy, *(name for name in super().list_commands(ctx) if name not in self._lazy)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None when there is no such one."""
        name = cmd_name
        if name not in self._lazy and name not in self.commands:
            name = _ALIASES.get(name, name)
        if name in self._lazy:
            module, _, attribute = self._lazy[name].place.partition(":")
            return cast(click.Command, getattr(importlib.import_module(module), attribute))
        return super().get_command(ctx, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands without importing those that are not loaded."""
        rows = []
        for name in self.list_commands(ctx):
            lazy = self._lazy.get(name)
            command = None if lazy else super().get_command(ctx, name)
            if lazy is not None:
                rows.append((name, lazy.help))
            elif command is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(limit=100)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
