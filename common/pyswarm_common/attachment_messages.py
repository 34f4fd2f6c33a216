"""What a node asks of the managers for its single containers: addresses on attachable networks. JSON, at the node port."""

from pyswarm_common.objects import Record

ATTACH_PATH = "/attachments"
DETACH_PATH = "/attachments/release"


class AttachRequest(Record, frozen=True, kw_only=True):
    """POST `/attachments`: an address on an attachable network for a single container of the caller. May be repeated.

    `attachment_id` is the caller's choice, for this run of the container alone; `network` an id or a name; `names` lead to the
    container on that network.
    """

    attachment_id: str
    container_id: str
    network: str
    names: tuple[str, ...] = ()
    address: str = ""
    """The one to have, without prefix length; "" for any."""
    mac: str = ""
    """The hardware address to have; "" for the one that is made of the address."""


class AttachAnswer(Record, frozen=True, kw_only=True):
    """The container's address, with prefix length, and MAC address if it asked for one.

    The network's view comes in the node's session.
    """

    network_id: str
    network_name: str
    address: str
    mac: str = ""


class DetachRequest(Record, frozen=True, kw_only=True):
    """POST `/attachments/release`: nothing uses these attachments of the caller any more. Those that are gone do not matter."""

    attachment_ids: tuple[str, ...]
