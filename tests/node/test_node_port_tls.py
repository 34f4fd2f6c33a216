"""The node port's TLS follows the files: over real sockets, while connections are open."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pyswarm_common import pki, pki_chain
from pyswarm_node.membership import MembershipStore
from pyswarm_node.node_tls import NodePortTLS

NOW = datetime.datetime.now(datetime.UTC)
OLD, NEW = pki.new_root(NOW), pki.new_root(NOW)
CROSS = pki_chain.cross_sign(NEW[0], *OLD, NOW)


def save(files: MembershipStore, root: tuple[str, str], trust_pem: str, tail_pem: str = "") -> None:
    key = pki.new_private_key_pem()
    identity = pki.NodeIdentity("n", "manager", "c")
    pem = pki.sign_node_certificate(*root, pki.new_signing_request(key), identity, ("127.0.0.1",), NOW, tail_pem=tail_pem)
    files.save_certificate(root_pem=trust_pem, certificate_pem=pem, key_pem=key)


@pytest.fixture
def files(tmp_path: Path) -> MembershipStore:
    files = MembershipStore(tmp_path / "data", tmp_path / "run")
    save(files, OLD, OLD[0])
    return files


@pytest.fixture
async def port(files: MembershipStore) -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=NodePortTLS(files).context)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Client:
    """A node with a certificate of `root` that trusts `trust_pem`."""

    def __init__(self, folder: Path, root: tuple[str, str], trust_pem: str, tail_pem: str = "", name: str = "client") -> None:
        key = pki.new_private_key_pem()
        identity = pki.NodeIdentity("w", "worker", "c")
        pem = pki.sign_node_certificate(*root, pki.new_signing_request(key), identity, (), NOW, tail_pem=tail_pem)
        (folder / name).write_text(pem + key)
        self.tls = ssl.create_default_context(cadata=trust_pem)
        self.tls.load_cert_chain(folder / name)

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port, ssl=self.tls, server_hostname=pki.MANAGER_ROLE_NAME)


async def says_hello(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    reader, writer = connection
    try:
        writer.write(b"hello\n")
        return await reader.readline() == b"hello\n"
    except OSError:
        return False


async def is_let_in(client: Client, port: int) -> bool:
    try:
        connection = await client.connect(port)
    except OSError:
        return False
    try:
        return await says_hello(connection)
    finally:
        connection[1].transport.abort()


async def test_new_connections_see_the_new_files_and_open_ones_go_on(files: MembershipStore, port: int, tmp_path: Path) -> None:
    old, new = Client(tmp_path, OLD, OLD[0]), Client(tmp_path, NEW, NEW[0], name="new")
    connection = await old.connect(port)
    assert await says_hello(connection)
    assert not await is_let_in(new, port)
    save(files, NEW, OLD[0] + NEW[0], CROSS)
    assert await is_let_in(old, port)
    assert await is_let_in(new, port)
    save(files, NEW, NEW[0], CROSS)
    assert not await is_let_in(old, port), "its root is not trusted any more"
    assert await is_let_in(Client(tmp_path, NEW, OLD[0], CROSS, name="late"), port), "it knows the former root alone"
    assert await says_hello(connection)
    connection[1].close()


async def test_who_shows_no_certificate_is_let_in_and_the_routes_decide(files: MembershipStore, port: int) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=ssl.create_default_context(cadata=OLD[0]), server_hostname=pki.MANAGER_ROLE_NAME
    )
    assert await says_hello((reader, writer))
    assert writer.get_extra_info("ssl_object").session is None or not writer.get_extra_info("ssl_object").session.has_ticket
    writer.close()


async def test_files_that_do_not_fit_leave_the_former_ones_in_force(files: MembershipStore, port: int, tmp_path: Path) -> None:
    files.root_path.write_text("no certificate")
    assert await is_let_in(Client(tmp_path, OLD, OLD[0]), port)


async def test_less_than_tls_1_2_is_refused(files: MembershipStore) -> None:
    assert NodePortTLS(files).context.minimum_version == ssl.TLSVersion.TLSv1_2
