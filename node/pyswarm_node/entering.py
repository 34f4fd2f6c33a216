"""How a node asks the cluster's managers for what only its certificate opens: to be a manager, and to be one no more.

Every manager takes these requests (those that do not lead pass them on), so the known ones are tried in turn.
"""

import ssl
from collections.abc import Callable, Iterable

import httpx
import msgspec

from pyswarm_common import pki
from pyswarm_common.errors import PyswarmError, Unavailable
from pyswarm_common.wire import ENTER_PATH, LEAVE_PATH, EnterAnswer, EnterRequest, ManagerAddress

CONNECT_TIMEOUT_S = 2.0
ENTER_TIMEOUT_S = 10.0
LEAVE_TIMEOUT_S = 20.0


class ManagerDirectory:
    """Requests to whichever of the known managers answers. `tls` gives the node's own certificate."""

    def __init__(self, managers: Callable[[], Iterable[ManagerAddress]], tls: Callable[[], ssl.SSLContext]) -> None:
        self.tls = tls
        self._managers = managers

    async def enter(self, request: EnterRequest) -> EnterAnswer:
        """Ask to be a manager, or how far that is. Raises what the managers answer; Unavailable when none does."""
        answer = await self.post(ENTER_PATH, msgspec.json.encode(request), ENTER_TIMEOUT_S)
        return msgspec.json.decode(answer, type=EnterAnswer)

    async def leave(self) -> None:
        """Ask to be a manager no more; returns when the cluster has removed its member. Raises as `enter`."""
        await self.post(LEAVE_PATH, b"", LEAVE_TIMEOUT_S)

    async def post(self, path: str, body: bytes, timeout_s: float) -> bytes:
        """Return the first manager's answer. Raises what it answered when that is no 503, Unavailable when all fail."""
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        failure = Unavailable("no manager of the cluster is known")
        async with httpx.AsyncClient(verify=self.tls(), timeout=timeout, trust_env=False) as client:
            for manager in self._managers():
                try:
                    answer = await client.post(
                        f"https://{manager.address}{path}",
                        content=body,
                        extensions={"sni_hostname": pki.MANAGER_ROLE_NAME},
                    )
                except httpx.HTTPError as error:
                    failure = Unavailable(f"the manager at {manager.address} cannot be reached: {error or type(error).__name__}")
                    continue
                if answer.status_code == httpx.codes.OK:
                    return answer.content
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    raise error_of(answer)
                failure = Unavailable(error_of(answer).message)
        raise failure


def error_of(answer: httpx.Response) -> PyswarmError:
    """Return the error that a manager answered."""
    try:
        message = str(msgspec.json.decode(answer.content)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        message = f"the manager answered {answer.status_code}"
    error = PyswarmError(message)
    error.status_code = answer.status_code
    return error
