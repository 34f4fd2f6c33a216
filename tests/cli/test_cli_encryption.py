"""What the CLI says of encrypted overlays: whether a node can carry them, and else why not."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from click.testing import Result

from pyswarm_cli.system.commands import describe_info
from pyswarm_manager.store.store import Store

Run = Callable[..., Awaitable[Result]]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"encryption": "kernel", "wireguard_key": "k"}, "Encrypted Overlays: by the kernel's WireGuard\n"),
        ({"encryption": "userspace", "wireguard_key": "k"}, "Encrypted Overlays: by wireguard-go\n"),
        ({"encryption_problem": "no WireGuard here"}, "Encrypted Overlays: not possible: no WireGuard here\n"),
    ],
)
async def test_a_node_tells(pyswarm: Run, store: Store, changes: dict[str, str], line: str) -> None:
    def change(tx: Any) -> None:
        (node,) = tx.nodes.named("worker1")
        tx.update(msgspec.structs.replace(node, description=msgspec.structs.replace(node.description, **changes)))

    await store.update(change)
    assert line in (await pyswarm("node", "inspect", "--pretty", "worker1")).stdout


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("kernel", "by kernel WireGuard"),
        ("userspace", "by userspace WireGuard"),
        ("no WireGuard here", "not possible: no WireGuard here"),
        (None, None),
    ],
)
async def test_info_tells(pyswarm: Run, said: str | None, shown: str | None) -> None:
    found = json.loads((await pyswarm("info", "--format", "json")).stdout)
    if said is not None:
        found["Swarm"]["EncryptedOverlays"] = said
    assert describe_info(found)["Swarm"].get("Encrypted Overlays") == shown
