"""The joining machine's side: trust the CA that the token pins, then ask to be let in.

First the CA's certificate is fetched without trust and compared with the digest in the token; everything after that goes over
TLS that accepts only this CA and the role name `swarm-manager`.
"""

import hmac
import ssl

import httpx
import msgspec

from pyswarm_common import pki
from pyswarm_common.errors import InvalidArgument, Unavailable
from pyswarm_common.wire import CA_PATH, JOIN_PATH, JoinAnswer, JoinRequest
from pyswarm_node.entering import error_of

JOIN_TIMEOUT_S = 10.0


async def join_cluster(remote: str, request: JoinRequest) -> JoinAnswer:
    """Join through the manager at `remote` (host:port).

    Raises InvalidArgument for a bad or foreign token, Unavailable when nobody answers there, or what the manager answered.
    """
    token = pki.parse_join_token(request.token)
    root_pem = await _fetch_root(remote)
    if not hmac.compare_digest(pki.root_digest(root_pem), token.ca_digest):
        raise InvalidArgument(
            f"remote CA does not match fingerprint: the manager at {remote} belongs to another cluster than the token; "
            "check the address, and the token with `pyswarm swarm join-token worker`"
        )
    tls = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=root_pem)
    try:
        async with httpx.AsyncClient(verify=tls, timeout=JOIN_TIMEOUT_S, trust_env=False) as client:
            answer = await client.post(
                f"https://{remote}{JOIN_PATH}",
                content=msgspec.json.encode(request),
                extensions={"sni_hostname": pki.MANAGER_ROLE_NAME},
            )
    except httpx.HTTPError as error:
        raise _unreachable(remote, error) from error
    if answer.status_code != httpx.codes.OK:
        raise error_of(answer)
    return msgspec.json.decode(answer.content, type=JoinAnswer)


async def _fetch_root(remote: str) -> str:
    try:
        async with httpx.AsyncClient(verify=_without_trust(), timeout=JOIN_TIMEOUT_S, trust_env=False) as client:
            answer = await client.get(f"https://{remote}{CA_PATH}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _unreachable(remote, error) from error
    if answer.status_code != httpx.codes.OK or "BEGIN CERTIFICATE" not in answer.text:
        raise Unavailable(f"{remote} answers, but it is not a pyswarm manager")
    return answer.text


def _without_trust() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _unreachable(remote: str, error: Exception) -> Unavailable:
    reason = str(error) or type(error).__name__
    return Unavailable(
        f"no manager could be reached at {remote}: {reason}; check the address, that pyswarmd runs there as a manager, "
        "and that no firewall stops TCP port 2377"
    )
