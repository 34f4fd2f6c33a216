"""What somebody can try with a node's stolen certificate and key; run on a host of the lab.

    certificate_thief.py LOOT ADDRESS session|request|certificate|join|peer ARGUMENT…

prints what came of it as JSON. PRETENDED, where there is one, is the id of a node for which the thief claims to speak, as
managers do when they pass requests on.
"""

import asyncio
import contextlib
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx
import websockets.asyncio.client as websocket_client
from websockets.exceptions import ConnectionClosed

from pyswarm_agent.session import client_tls
from pyswarm_common import pki, pki_chain, wire
from pyswarm_common.objects import NodeDescription

NODE_PORT = 2377


class Thief:
    """Holds the loot."""

    def __init__(self, loot: Path, address: str) -> None:
        self._address = address
        self._tls = client_tls(str(loot / "node.crt"), str(loot / "node.key"), str(loot / "root-ca.crt"))

    async def session(self, pretended: str) -> Any:
        """Open a session and take the first set of tasks."""
        async with websocket_client.connect(
            f"wss://{self._address}:{NODE_PORT}{wire.SESSION_PATH}",
            ssl=self._tls,
            server_hostname=pki.MANAGER_ROLE_NAME,
            additional_headers=_claims(pretended),
        ) as socket:
            with contextlib.suppress(ConnectionClosed):  # what was said before it was closed can still be read
                await socket.send(wire.encode(wire.Hello(protocol_versions=(1,), description=NodeDescription(hostname="thief"))))
            node_id, tasks = "", None
            while tasks is None:
                message = wire.decode_manager_message(await socket.recv(decode=False))
                if isinstance(message, wire.Goodbye):
                    return {"refused": message.reason}
                if isinstance(message, wire.Welcome):
                    node_id = message.node_id
                if isinstance(message, wire.Assignments):
                    tasks = [task.task_id for task in message.tasks]
            return {"node_id": node_id, "tasks": tasks}

    async def request(self, pretended: str, method: str, path: str) -> Any:
        """Ask for something that is not the worker's business."""
        body = {"signing_request_pem": _signing_request(), "address": "10.0.0.1:2377", "etcd_peer_url": "https://10.0.0.1:2380"}
        answer = await self._ask(method, path, _claims(pretended), body)
        return {"status": answer.status_code, "text": answer.text}

    async def certificate(self, pretended: str) -> Any:
        """Ask for a certificate."""
        answer = await self._ask("POST", wire.CERTIFICATE_PATH, _claims(pretended), {"signing_request_pem": _signing_request()})
        pem = answer.json()["certificate_pem"]
        identity = pki.identity_of(pem.encode())
        return {"node_id": identity.node_id, "role": identity.role, "certificates": len(pki_chain.split_bundle(pem))}

    async def join(self) -> Any:
        """Ask to be let in without a token that is right."""
        root_pem = (await self._ask("GET", wire.CA_PATH, {}, None)).text
        body = {"token": pki.new_join_token(root_pem), "signing_request_pem": _signing_request()}
        return {"status": (await self._ask("POST", wire.JOIN_PATH, {}, body)).status_code}

    async def peer(self, port: str) -> Any:
        """Talk to an etcd member as a peer."""
        try:
            reader, writer = await asyncio.open_connection(
                self._address, int(port), ssl=self._tls, server_hostname=pki.MANAGER_ROLE_NAME
            )
            writer.write(b"GET /members HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return {"answer": (await asyncio.wait_for(reader.readline(), 15)).decode()}
        except (OSError, ssl.SSLError) as error:
            return {"answer": "", "error": str(error)}

    async def _ask(self, method: str, path: str, headers: dict[str, str], body: Any) -> httpx.Response:
        async with httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=10.0) as client:
            return await client.request(
                method,
                f"https://{self._address}:{NODE_PORT}{path}",
                headers=headers,
                json=body,
                extensions={"sni_hostname": pki.MANAGER_ROLE_NAME},
            )


def _signing_request() -> str:
    return pki.new_signing_request(pki.new_private_key_pem())


def _claims(pretended: str) -> dict[str, str]:
    return {"pyswarm-forwarded-node": pretended, "pyswarm-forwarded-address": "10.0.0.1"} if pretended else {}


if __name__ == "__main__":
    thief = Thief(Path(sys.argv[1]), sys.argv[2])
    print(json.dumps(asyncio.run(getattr(thief, sys.argv[3])(*sys.argv[4:]))))
