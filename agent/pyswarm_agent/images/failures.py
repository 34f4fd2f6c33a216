"""What went wrong between a node and a registry, in the words that Docker uses and with a hint of what to check.

Pure: exceptions and answers in, errors of pyswarm's tree out.
"""

import errno
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec

from pyswarm_agent.images.reference import Reference
from pyswarm_common.errors import NotFound, PermissionDenied, PyswarmError, Unauthenticated, Unavailable

_PLAIN_HTTP_MARKS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")
_SOCKET_TEXTS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
    errno.ETIMEDOUT: "connection timed out",
    errno.ECONNRESET: "connection reset by peer",
}
FREE_SOME = "free some of the disk that has {}: docker image prune --all removes the images that nothing uses"
_CHECK_REGISTRY = "check that the registry runs, and that this node reaches it"


class _RegistryError(msgspec.Struct):
    code: str = ""
    message: str | None = ""


class _RegistryErrors(msgspec.Struct):
    errors: list[_RegistryError] = []


def unreachable(error: httpx.TransportError, method: str, url: str) -> Unavailable:
    """Return the error for a request that got no (whole) answer."""
    parsed = httpx.URL(url)
    address = f"{parsed.host}:{parsed.port or (443 if parsed.scheme == 'https' else 80)}"
    return Unavailable(f'{method.title()} "{url}": {_cause_text(error, address)}')


def _cause_text(error: httpx.TransportError, address: str) -> str:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"x509: {cause.verify_message} (add the authority to this node's trusted certificates)"
        if isinstance(cause, ssl.SSLError):
            if any(mark in str(cause.reason) for mark in _PLAIN_HTTP_MARKS):
                return "http: server gave HTTP response to HTTPS client (if that is meant, list it under insecure registries)"
            return f"tls: {cause.reason or cause}"
        if isinstance(cause, socket.gaierror):
            host = address.rpartition(":")[0]
            return f"dial tcp: lookup {host}: no such host (check the name and this node's DNS)"
        if isinstance(cause, OSError) and cause.errno is not None:
            text = _SOCKET_TEXTS.get(cause.errno, cause.strerror or str(cause))
            return f"dial tcp {address}: connect: {text} ({_CHECK_REGISTRY})"
    if isinstance(error, httpx.TimeoutException):
        return f"dial tcp {address}: i/o timeout ({_CHECK_REGISTRY})"
    return f"{str(error) or type(error).__name__} ({_CHECK_REGISTRY})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield what led to an error, the first failure among several attempts included."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__


def refused(reference: Reference, status: int, reason: str, body: bytes) -> PyswarmError:
    """Return the error for a registry's answer to the request for `reference`."""
    code, message, words = _first_error(body)
    if status in (401, 403):
        return NotFound(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied"
        )
    if code == "NAME_UNKNOWN":
        return NotFound(f"repository {reference.familiar_name} not found: {words}")
    if code == "BLOB_UNKNOWN":
        return NotFound(f"a part of {reference.familiar} not found: {words}")
    if status == 404:
        return NotFound(f"manifest for {reference.familiar} not found: {words or 'manifest unknown: manifest unknown'}")
    if status == 429:
        return Unavailable(f"toomanyrequests: {message or 'the registry limits how often it may be asked; try again later'}")
    return Unavailable(f"received unexpected HTTP status: {status} {reason}" + (f" ({words})" if words else ""))


def push_refused(reference: Reference, status: int, reason: str, body: bytes) -> PyswarmError:
    """Return the error for a registry's answer when something was to be stored there."""
    _, message, words = _first_error(body)
    if status == 401:
        return Unauthenticated(f"unauthorized: {message or 'authentication required'} (pyswarm login {reference.domain})")
    if status == 403:
        return PermissionDenied(words or "denied: requested access to the resource is denied")
    if status == 429:
        return Unavailable(f"toomanyrequests: {message or 'the registry limits how often it may be asked; try again later'}")
    if status >= 500:
        return Unavailable(f"received unexpected HTTP status: {status} {reason}" + (f" ({words})" if words else ""))
    return PyswarmError(words or f"received unexpected HTTP status: {status} {reason}")


def login_failed(url: str, status: int, reason: str) -> PyswarmError:
    """Return the error for credentials that a registry did not take."""
    kind = Unauthenticated if status in (401, 403) else Unavailable
    return kind(f"login attempt to {url} failed with status: {status} {reason}")


def disk_failure(error: OSError, doing: str, directory: Path) -> PyswarmError:
    """Return the error for a disk that does not take what is written; `directory` is on it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PyswarmError(f"{doing}: no space left on device ({FREE_SOME.format(directory)})")
    return PyswarmError(f"{doing}: {error.strerror or error} ({directory})")


def _first_error(body: bytes) -> tuple[str, str, str]:
    """Return the code, the message, and both in Docker's words; empty where the answer says nothing."""
    try:
        errors = msgspec.json.decode(body, type=_RegistryErrors).errors
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        errors = []
    code, message = (errors[0].code, errors[0].message or "") if errors else ("", "")
    return code, message, f"{code.lower().replace('_', ' ')}: {message}" if code else ""


def corrupt_layer(digest: str, why: str = "") -> PyswarmError:
    """Return the error for content that is not what its digest says."""
    return PyswarmError(f"filesystem layer verification failed for digest {digest}" + (f": {why}" if why else ""))
