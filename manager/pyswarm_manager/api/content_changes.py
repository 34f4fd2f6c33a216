"""Secrets and configs: what a posted one must hold, and how they change in the store; words and limits are SwarmKit's.

Source: `manager/controlapi/secret.go`, `config.go`, `common.go`.
"""

import hmac
import re
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

import msgspec

from pyswarm_common.engine_api.responses import refuse_unsupported
from pyswarm_common.errors import AlreadyExists, Conflict, InvalidArgument
from pyswarm_common.objects import Config, Secret
from pyswarm_common.secret_spec import ContentNoun, SecretSpec
from pyswarm_manager.api.service_contents import services_that_need
from pyswarm_manager.store.tables import Table, View
from pyswarm_manager.store.transaction import Transaction

TEMPLATE_DRIVERS = ("", "golang")
_NAME = re.compile(r"[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?")
_MAXIMUM_NAME_LENGTH = 64

ContentT = TypeVar("ContentT", Secret, Config)


@dataclass(frozen=True)
class ContentKind(Generic[ContentT]):
    """What tells secrets and configs apart. Their data must be smaller than `limit_bytes`."""

    noun: ContentNoun
    type_: type[ContentT]
    limit_bytes: int
    shows_data: bool

    def table(self, view: View) -> Table[ContentT]:
        """Return the table of this kind."""
        return view.table(self.type_)

    def resolve(self, view: View, reference: str) -> ContentT:
        """Return what a user means by an id, a name or the beginning of an id. Raises NotFound, InvalidArgument (ambiguous)."""
        try:
            return self.table(view).resolve(reference)
        except Conflict as error:
            raise InvalidArgument(error.message) from None


SECRETS = ContentKind("secret", Secret, 500 * 1024, shows_data=False)
CONFIGS = ContentKind("config", Config, 1000 * 1024, shows_data=True)


@dataclass(frozen=True)
class ContentDraft:
    """What was posted: the spec without its data, and the data (None: not said)."""

    typed: SecretSpec
    spec_json: bytes
    data: bytes | None


def draft_content(body: dict[str, Any], noun: ContentNoun) -> ContentDraft:
    """Return the draft of a posted secret or config (without nulls, names in canonical case). Raises InvalidArgument."""
    spec = {key: value for key, value in body.items() if key != "Data"}
    spec = {**spec, "Name": spec.get("Name", ""), "Labels": spec.get("Labels") or {}}
    try:
        data = msgspec.convert(body["Data"], bytes) if "Data" in body else None
        typed = msgspec.convert(spec, SecretSpec)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid {noun} spec: {error}") from error
    return ContentDraft(typed, msgspec.json.encode(spec), data)


def validate_content(draft: ContentDraft, kind: ContentKind[ContentT]) -> None:
    """Check a new secret or config. Raises InvalidArgument, Unimplemented."""
    name, size_bytes = draft.typed.name, len(draft.data or b"")
    if not name:
        _refuse("name must be provided")
    if len(name) > _MAXIMUM_NAME_LENGTH or not _NAME.fullmatch(name):
        _refuse(
            f"invalid name, only {_MAXIMUM_NAME_LENGTH} [a-zA-Z0-9-_.] characters allowed, "
            "and the start and end character must be [a-zA-Z0-9]"
        )
    if draft.typed.driver is not None:
        refuse_unsupported({"Driver": draft.typed.driver.name or "?"}, {"Driver": f"a {kind.noun} driver"})
    if draft.typed.templating is not None and draft.typed.templating.name not in TEMPLATE_DRIVERS:
        _refuse(f"unknown template driver {draft.typed.templating.name!r}: only golang is known")
    if not 0 < size_bytes < kind.limit_bytes:
        _refuse(f"{kind.noun} data must be larger than 0 and less than {kind.limit_bytes} bytes")


def add_content(tx: Transaction, item: ContentT) -> None:
    """Store a secret or config. Raises AlreadyExists."""
    table = tx.table(type(item))
    if table.named(item.name):
        raise AlreadyExists(f"{table.noun} {item.name} already exists", grpc_code="AlreadyExists")
    tx.create(item)


def change_labels(tx: Transaction, type_: type[ContentT], content_id: str, draft: ContentDraft, version_index: int) -> None:
    """Give a secret or config new labels. Raises NotFound, OutOfSequence, and InvalidArgument when anything else would change."""
    item = tx.table(type_).must_get(content_id)
    is_other = draft.data is not None and draft.data != b"" and not hmac.compare_digest(draft.data, item.data)
    if is_other or draft.typed.name != item.name or draft.typed.driver is not None:
        _refuse("only updates to Labels are allowed")
    spec = {**msgspec.json.decode(item.spec_json, type=dict[str, Any]), "Labels": draft.typed.labels or {}}
    tx.update(msgspec.structs.replace(item, spec_json=msgspec.json.encode(spec)), expected_index=version_index)


def remove_content(tx: Transaction, type_: type[ContentT], content_id: str) -> None:
    """Delete a secret or config. Raises NotFound, and InvalidArgument when a service needs it."""
    table = tx.table(type_)
    item = table.must_get(content_id)
    names = services_that_need(tx, content_id)
    if names:
        services = "service" if len(names) == 1 else "services"
        _refuse(f"{table.noun} '{item.name}' is in use by the following {services}: {', '.join(names)}")
    tx.delete(type_, content_id)


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument(message, grpc_code="InvalidArgument")
