"""The routes of services: list, inspect, create, update (and roll back), remove."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.member_names import with_canonical_names
from pyswarm_common.engine_api.responses import JSONResponse, query_flag, query_version, read_json_object
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Service
from pyswarm_common.specs import ServiceSpec
from pyswarm_manager.api import service_changes as changes
from pyswarm_manager.api.manager_services import ManagerServices, read_view, services_of
from pyswarm_manager.api.render.service import render_service, render_service_status, service_mode
from pyswarm_manager.api.service_dependencies import validate_dependency_labels
from pyswarm_manager.api.service_names import new_service_name
from pyswarm_manager.api.service_spec import ServiceDraft, draft_service
from pyswarm_manager.api.service_validation import validate_service, warnings_about

router = APIRouter()

_FILTERS = ("id", "name", "label", "mode", "runtime")
_REGISTRY_AUTH_HEADER = "x-registry-auth"
_ROLLBACKS = ("", "none", "previous")


@router.get("/services")
async def list_services(request: Request) -> Response:
    """List services; with `status=true` also how many of their tasks run."""
    filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
    manager = services_of(request)
    view = await read_view(manager)
    with_status = query_flag(request, "status")
    answer = []
    for service in view.services:
        if not _matches(service, filters):
            continue
        rendered = render_service(service, view, manager.store.version_index(service))
        if with_status:
            rendered["ServiceStatus"] = render_service_status(service, view)
        answer.append(rendered)
    return JSONResponse(answer)


@router.get("/services/{reference}")
async def inspect_service(request: Request, reference: str) -> Response:
    """Show one service."""
    manager = services_of(request)
    view = await read_view(manager)
    service = view.services.resolve(reference)
    inserts_defaults = query_flag(request, "insertDefaults")
    index = manager.store.version_index(service)
    return JSONResponse(render_service(service, view, index, inserts_defaults=inserts_defaults))


@router.post("/services/create")
async def create_service(request: Request) -> Response:
    """Create a service; a nameless one gets a name."""
    manager = services_of(request)
    body = await read_spec(request)
    body["Name"] = body.get("Name") or new_service_name()
    draft = validated(body)
    service_id, task_spec_id = new_id(), new_id()
    registry_auth = request.headers.get(_REGISTRY_AUTH_HEADER, "")
    if manager.image_pinning is not None:
        changes.refuse_conflicts(await read_view(manager), service_id, draft)  # rather than after the registry has answered
    pinned, unpinned = await _with_digest(request, manager, draft, registry_auth)
    await manager.store.update(lambda tx: changes.create_service(tx, service_id, task_spec_id, pinned, registry_auth))
    answer = {"ID": service_id, "Warnings": [*unpinned, *(warnings_about(draft.template) or ())] or None}
    return JSONResponse(answer, status_code=201)


@router.post("/services/{reference}/update")
async def update_service(request: Request, reference: str) -> Response:
    """Give a service a new spec, or its previous one back (`rollback=previous`)."""
    manager = services_of(request)
    version = query_version(request, "service")
    body = await read_spec(request)
    service = (await read_view(manager)).services.resolve(reference)
    rollback = request.query_params.get("rollback", "")
    if rollback not in _ROLLBACKS:
        raise InvalidArgument(f"unrecognized rollback option {rollback}")
    if rollback == "previous":
        await manager.store.update(lambda tx: changes.roll_back_service(tx, service.id, version))
        return JSONResponse({"Warnings": None})
    draft = validated({**body, "Name": body.get("Name") or service.name})
    registry_auth = request.headers.get(_REGISTRY_AUTH_HEADER, "") or changes.stored_registry_auth(manager.store.view, service)
    pinned, unpinned = await _with_digest(request, manager, draft, registry_auth, service)
    update = changes.ServiceUpdate(
        draft=pinned,
        version_index=version,
        new_task_spec_id=new_id(),
        registry_auth=request.headers.get(_REGISTRY_AUTH_HEADER, ""),
        auth_from_previous=request.query_params.get("registryAuthFrom") == "previous-spec",
    )
    await manager.store.update(lambda tx: changes.update_service(tx, service.id, update))
    return JSONResponse({"Warnings": [*unpinned, *(warnings_about(draft.template) or ())] or None})


@router.delete("/services/{reference}")
async def delete_service(request: Request, reference: str) -> Response:
    """Remove a service; its tasks end."""
    manager = services_of(request)
    service = (await read_view(manager)).services.resolve(reference)
    await manager.store.update(lambda tx: changes.remove_service(tx, service.id))
    return Response()


async def read_spec(request: Request) -> dict[str, Any]:
    """Return the spec that a request holds, with the names of its members in Docker's case. Raises InvalidArgument."""
    spec: dict[str, Any] = with_canonical_names(await read_json_object(request), ServiceSpec)
    return spec


def validated(body: dict[str, Any]) -> ServiceDraft:
    """Return the draft of a posted spec, checked as far as that needs no other object. Raises InvalidArgument, Unimplemented."""
    draft = draft_service(body)
    validate_service(draft.typed)
    validate_dependency_labels(draft.typed)
    return draft


def _asks_registry(request: Request) -> bool:
    """Whether the client leaves it to the manager to record the image's digest, which `resolveImage=false` does not."""
    return query_flag(request, "resolveImage", default=True)


async def _with_digest(
    request: Request, manager: ManagerServices, draft: ServiceDraft, registry_auth: str, service: Service | None = None
) -> tuple[ServiceDraft, list[str]]:
    """Return the draft with its image pinned, and what to warn of. `service`: the one that is updated."""
    if manager.image_pinning is None or not _asks_registry(request):
        return draft, []
    spec = manager.store.view.task_specs.get(service.task_spec_id) if service is not None else None
    container = spec.template.container_spec if spec is not None else None
    return await manager.image_pinning.pinned(draft, registry_auth, container.image if container is not None else "")


def _matches(service: Service, filters: Filters) -> bool:
    return (
        filters.allows_prefix("id", service.id)
        and filters.allows_prefix("name", service.name)
        and filters.allows_labels("label", service.spec.labels)
        and filters.allows("mode", service_mode(service))
        and filters.allows("runtime", "container")
    )
