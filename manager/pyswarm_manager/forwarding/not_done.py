"""How a manager's node port says to another manager that a request certainly changed nothing."""

from starlette.responses import Response

from pyswarm_common.engine_api.responses import error_response
from pyswarm_common.errors import NotDone

NOT_DONE_HEADER = "pyswarm-not-done"
"""Marks a 503: nothing was changed, ask the leader of then."""


def not_done_response(error: Exception) -> Response:
    """Return an error as the node port answers it, marked if it is NotDone."""
    response = error_response(error)
    if isinstance(error, NotDone):
        response.headers[NOT_DONE_HEADER] = "1"
    return response
