"""One tree of errors for every part, mapped to HTTP once (`engine_api.responses`).

    PyswarmError                       500
    ├── InvalidArgument                400   the request cannot be right in any state
    ├── FailedPrecondition             400   the request is right but not in this state
    ├── Unauthenticated                401   no or a wrong credential
    ├── PermissionDenied               403   a credential that may not do this
    ├── NotFound                       404
    ├── AlreadyExists                  409   a name is taken
    ├── Conflict                       409   in use, or busy
    ├── OutOfSequence                  500   the version given is not the current one (Docker answers 500 here)
    ├── ResourceExhausted              429   too often
    ├── Unimplemented                  501
    └── Unavailable                    503   not now: no leader, not a manager, not part of a swarm
        ├── NotDone                    503   it certainly did not happen: it may be tried again, here or elsewhere
        └── OutcomeUnknown             503   a write whose answer was lost

Those that Docker's manager words as gRPC errors carry `grpc_code`; the API then writes
`rpc error: code = AlreadyExists desc = …`, because clients match on that text.
"""


class PyswarmError(Exception):
    """The root: something that a person can read and a client can tell apart."""

    status_code = 500
    grpc_code: str | None = None

    def __init__(self, message: str, *, grpc_code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if grpc_code is not None:
            self.grpc_code = grpc_code

    @property
    def api_message(self) -> str:
        """The text that a client gets in `{"message": …}`."""
        if self.grpc_code is None:
            return self.message
        return f"rpc error: code = {self.grpc_code} desc = {self.message}"


class InvalidArgument(PyswarmError):
    """The request cannot be right in any state of the cluster."""

    status_code = 400


class FailedPrecondition(PyswarmError):
    """The request is right, but not in the present state."""

    status_code = 400


class Unauthenticated(PyswarmError):
    """No credential, or a wrong one."""

    status_code = 401


class PermissionDenied(PyswarmError):
    """A known caller who may not do this."""

    status_code = 403


class NotFound(PyswarmError):
    """No such object."""

    status_code = 404


class AlreadyExists(PyswarmError):
    """The name is taken."""

    status_code = 409


class Conflict(PyswarmError):
    """The object is in use, or busy with something that excludes this."""

    status_code = 409


class OutOfSequence(PyswarmError):
    """The version given is not the object's current one."""

    status_code = 500
    grpc_code = "Unknown"

    def __init__(self) -> None:
        super().__init__("update out of sequence")


class ResourceExhausted(PyswarmError):
    """Too often: try again later."""

    status_code = 429


class Unimplemented(PyswarmError):
    """Not offered."""

    status_code = 501


class Unavailable(PyswarmError):
    """Not now: no leader, not a manager, not part of a swarm."""

    status_code = 503


class NotDone(Unavailable):
    """Nothing was changed, for certain: the same request may be made again, here or at another manager."""


class OutcomeUnknown(Unavailable):
    """A write whose answer was lost: it may or may not have happened."""
