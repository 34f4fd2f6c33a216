"""How connections to a virtual IP are spread: in turn, beginning elsewhere in each container, or by the source's hash."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from overlay_hosts import Machine, Server, ask, machines, request, view

from pyswarm_common.wire import Balancing
from pyswarm_netplugin.driver import NetworkDriver
from pyswarm_netplugin.kernel.rules import VARIANTS, variant_of

pytestmark = pytest.mark.kernel

TASKS = {"web1": "10.0.1.5", "web2": "10.0.1.6"}
CLIENTS = {"t2": "10.0.1.7", "t3": "10.0.1.8"}
VIRTUAL_IP = "10.0.1.2"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    with machines(tmp_path, 1) as (made,):
        yield made


@pytest.fixture
async def driver(host: Machine) -> AsyncIterator[NetworkDriver]:
    made = host.driver()
    await made.start()
    await apply(made, host, "round-robin", 1)
    for name, address in (TASKS | CLIENTS).items():
        await made.attach(request(name, address))
    yield made
    await made.teardown()


@pytest.fixture
def servers(driver: NetworkDriver, host: Machine) -> Iterator[None]:
    with Server(host.sandbox("web1"), "web1"), Server(host.sandbox("web2"), "web2"):
        yield


async def apply(driver: NetworkDriver, host: Machine, balancing: Balancing, version: int) -> None:
    """Let the service be balanced like this."""
    network = view({name: (address, host) for name, address in (TASKS | CLIENTS).items()}, tuple(TASKS.values()), version=version)
    services = {"s1": msgspec.structs.replace(network.services["s1"], balancing=balancing)}
    await driver.apply_views({"net-a": msgspec.structs.replace(network, services=services)})


def asked(host: Machine, client: str) -> list[str]:
    """Return who answers six connections of a client, one after the other."""
    return [ask(host.sandbox(client), VIRTUAL_IP)[0] for _ in range(6)]


def test_each_client_takes_the_tasks_in_turn_and_not_all_begin_with_the_same(host: Machine, servers: None) -> None:
    answers = {client: asked(host, client) for client in CLIENTS}
    assert [Counter(seen) for seen in answers.values()] == [{"web1": 3, "web2": 3}] * 2
    assert {seen[0] for seen in answers.values()} == {"web1", "web2"}
    assert len({variant_of(f"task-{number}") for number in range(100)}) == VARIANTS


async def test_by_source_hash_a_client_always_meets_the_same_task(host: Machine, driver: NetworkDriver, servers: None) -> None:
    await apply(driver, host, "source-hash", 2)
    for client in CLIENTS:
        assert len(set(asked(host, client))) == 1
    await apply(driver, host, "round-robin", 3)
    for client in CLIENTS:
        assert set(asked(host, client)) == {"web1", "web2"}
