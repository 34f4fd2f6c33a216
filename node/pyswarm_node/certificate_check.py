"""Whether a node's certificate and key can be used at all, asked before it goes to work: TLS's own words tell nobody what to do."""

import ssl

from pyswarm_common import pki
from pyswarm_common.errors import InvalidArgument, PyswarmError
from pyswarm_node.membership import Membership, MembershipStore

WHAT_TO_DO = (
    "Put the files back, or let the node leave (`pyswarm swarm leave --force`) and join again; "
    "the only manager of a swarm comes back with `pyswarm swarm restore FILE`"
)


def check_certificate(files: MembershipStore, membership: Membership) -> None:
    """Raise PyswarmError when certificate, key or root is missing or damaged, or they do not belong together and to this node."""
    try:
        identity = pki.identity_of(files.certificate_path.read_bytes())
        files.server_tls()
    except FileNotFoundError as error:
        raise _unfit(files, f"{error.filename} is missing") from error
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        is_mismatch = "KEY_VALUES_MISMATCH" in reason
        raise _unfit(
            files, "the key is not that of the certificate" if is_mismatch else f"they cannot be used ({reason})"
        ) from error
    except (InvalidArgument, ValueError) as error:
        raise _unfit(files, str(error)) from error
    if identity.node_id != membership.node_id:
        raise _unfit(files, f"the certificate is that of node {identity.node_id}, and this is node {membership.node_id}")


def _unfit(files: MembershipStore, problem: str) -> PyswarmError:
    return PyswarmError(f"this node's certificate and key in {files.certificates} are damaged: {problem}. {WHAT_TO_DO}")
