"""The routes of secrets and of configs, which differ only in whether their data is shown."""

from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.member_names import with_canonical_names
from pyswarm_common.engine_api.responses import JSONResponse, query_version, read_json_object
from pyswarm_common.ids import new_id
from pyswarm_common.secret_spec import SecretSpec
from pyswarm_manager.api import content_changes as changes
from pyswarm_manager.api.content_changes import CONFIGS, SECRETS, ContentDraft, ContentKind, ContentT
from pyswarm_manager.api.manager_services import ManagerServices, read_view, services_of
from pyswarm_manager.api.render.meta import render_meta

_FILTERS = ("id", "name", "names", "label")


def _router_of(kind: ContentKind[ContentT]) -> APIRouter:
    router = APIRouter()
    place = f"/{kind.noun}s"

    @router.get(place)
    async def list_all(request: Request) -> Response:
        """List those that match."""
        manager = services_of(request)
        filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
        table = kind.table(await read_view(manager))
        return JSONResponse([_render(manager, kind, item) for item in table if _matches(item, filters)])

    @router.post(f"{place}/create")
    async def create(request: Request) -> Response:
        """Create one."""
        manager = services_of(request)
        draft = await _read_draft(request, kind)
        changes.validate_content(draft, kind)
        item = kind.type_(id=new_id(), name=draft.typed.name, spec_json=draft.spec_json, data=draft.data or b"")
        await manager.store.update(lambda tx: changes.add_content(tx, item))
        return JSONResponse({"ID": item.id}, status_code=201)

    @router.get(f"{place}/{{reference}}")
    async def inspect(request: Request, reference: str) -> Response:
        """Show one."""
        manager = services_of(request)
        return JSONResponse(_render(manager, kind, kind.resolve(await read_view(manager), reference)))

    @router.post(f"{place}/{{reference}}/update")
    async def update(request: Request, reference: str) -> Response:
        """Give one new labels."""
        manager = services_of(request)
        version = query_version(request, kind.noun)
        draft = await _read_draft(request, kind)
        item = kind.resolve(await read_view(manager), reference)
        await manager.store.update(lambda tx: changes.change_labels(tx, kind.type_, item.id, draft, version))
        return Response()

    @router.delete(f"{place}/{{reference}}")
    async def remove(request: Request, reference: str) -> Response:
        """Remove one that no service needs."""
        manager = services_of(request)
        item = kind.resolve(await read_view(manager), reference)
        await manager.store.update(partial(changes.remove_content, type_=kind.type_, content_id=item.id))
        return Response(status_code=204)

    return router


async def _read_draft(request: Request, kind: ContentKind[ContentT]) -> ContentDraft:
    return changes.draft_content(with_canonical_names(await read_json_object(request), SecretSpec), kind.noun)


def _render(manager: ManagerServices, kind: ContentKind[ContentT], item: ContentT) -> dict[str, Any]:
    spec: dict[str, Any] = msgspec.json.decode(item.spec_json)
    if kind.shows_data:
        spec["Data"] = item.data
    return {**render_meta(item, manager.store.version_index(item)), "Spec": spec}


def _matches(item: ContentT, filters: Filters) -> bool:
    return (
        filters.allows_prefix("id", item.id)
        and filters.allows_prefix("name", item.name)
        and filters.allows("names", item.name)
        and filters.allows_labels("label", item.spec.labels)
    )


SECRETS_ROUTER = _router_of(SECRETS)
CONFIGS_ROUTER = _router_of(CONFIGS)
