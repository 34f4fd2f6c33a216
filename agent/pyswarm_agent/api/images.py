"""The routes about the images that are here: list, inspect, history, tag, remove, prune. What moves them: `image_transfer`."""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import AgentServices, agent_of
from pyswarm_agent.api.image_filters import LIST_FILTERS, PRUNE_FILTERS, created_ns, matches, prunes
from pyswarm_agent.image_use import container_counts, image_users
from pyswarm_agent.images import Image, Removal
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import ZERO_TIME, JSONResponse, query_flag
from pyswarm_common.errors import Conflict, InvalidArgument, NotFound, Unimplemented

router = APIRouter()

_SECOND_NS = 1_000_000_000
_NO_STEP = "<missing>"
_EMPTY_CONFIG: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


@router.get("/images/json")
async def list_images(request: Request) -> Response:
    """List this node's images; with `shared-size` also how much of each others have too."""
    filters = Filters.parse(request.query_params.get("filters"), LIST_FILTERS)
    agent = agent_of(request)
    shared = agent.images.shared_bytes() if query_flag(request, "shared-size") else None
    images = [image for image in agent.images.list() if matches(image, filters, agent.images)]
    return JSONResponse([render_image_summary(image, shared) for image in images])


@router.get("/images/search")
async def search_images(request: Request) -> Response:
    """Search Docker Hub: not offered."""
    raise Unimplemented("searching Docker Hub is not supported: look for images on its web site, then pull them by name")


@router.post("/images/prune")
async def prune_images(request: Request) -> Response:
    """Remove images without a tag, or with `dangling=false` all that nothing uses; and layers that no image has."""
    filters = Filters.parse(request.query_params.get("filters"), PRUNE_FILTERS)
    agent = agent_of(request)
    removed: list[Removal] = []
    freed_bytes = 0
    for image in [image for image in agent.images.list() if prunes(image, filters, agent.clock.now_ns())]:
        in_use = agent.content_in_use()  # for each anew: tasks come meanwhile
        if image.id not in in_use:
            try:
                removals, freed = await agent.images.remove_counted(image.id, force=True, in_use=in_use)
            except (Conflict, NotFound):
                continue
            removed += removals
            freed_bytes += freed
    removed += [Removal(deleted=layer_id) for layer_id in await agent.images.collect_garbage(agent.content_in_use())]
    return JSONResponse({"ImagesDeleted": removed or None, "SpaceReclaimed": freed_bytes})


@router.get("/images/{reference:path}/json")
async def inspect_image(request: Request, reference: str) -> Response:
    """Show one image."""
    agent = agent_of(request)
    return JSONResponse(_render_image(agent, _find(agent, reference)))


@router.get("/images/{reference:path}/history")
async def show_history(request: Request, reference: str) -> Response:
    """Show the steps that made an image, the newest first."""
    agent = agent_of(request)
    image = _find(agent, reference)
    return JSONResponse(
        [
            {
                "Id": image.id if number == 0 else _NO_STEP,
                "Created": created_ns(step.created) // _SECOND_NS,
                "CreatedBy": step.created_by,
                "Tags": list(image.repo_tags) or None if number == 0 else None,
                "Size": step.size_bytes,
                "Comment": step.comment,
            }
            for number, step in enumerate(agent.images.history(image))
        ]
    )


@router.post("/images/{reference:path}/tag")
async def tag_image(request: Request, reference: str) -> Response:
    """Give an image another name."""
    repository, tag = request.query_params.get("repo", ""), request.query_params.get("tag", "")
    if not repository:
        raise InvalidArgument("invalid reference format: the new name is missing")
    agent, name = agent_of(request), f"{repository}:{tag}" if tag else repository
    await agent.images.tag(reference, name)
    image = agent.images.get(name)
    agent.events.publish("image", "tag", image.id if image is not None else reference, {"name": name})
    return Response(status_code=201)


@router.delete("/images/{reference:path}")
async def remove_image(request: Request, reference: str) -> Response:
    """Take a name of an image away, and with the last one the image."""
    agent = agent_of(request)
    removed = await agent.images.remove(
        reference,
        force=query_flag(request, "force"),
        in_use=agent.content_in_use(),
        users=image_users(agent.containers),
    )
    for removal in removed:
        agent.events.publish("image", "delete" if removal.deleted else "untag", removal.deleted or removal.untagged)
    return JSONResponse(removed)


def images_disk_use(agent: AgentServices) -> dict[str, Any]:
    """Return what `/system/df` says of images: `LayersSize`, each layer counted once, and `Images` with what they share."""
    counts, shared = container_counts(agent.containers), agent.images.shared_bytes()
    images = [{**render_image_summary(image, shared), "Containers": counts[image.id]} for image in agent.images.list()]
    return {"LayersSize": agent.images.layers_bytes(), "Images": images}


def render_image_summary(image: Image, shared_bytes: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return an image as the list shows it; `shared_bytes`: how much of each image others have too, where that was asked for."""
    return {
        "Containers": -1,
        "Created": created_ns(image.created) // _SECOND_NS,
        "Id": image.id,
        "Labels": image.config.labels or None,
        "ParentId": "",
        "RepoDigests": list(image.repo_digests) or None,
        "RepoTags": list(image.repo_tags) or None,
        "SharedSize": -1 if shared_bytes is None else shared_bytes.get(image.id, 0),
        "Size": image.size_bytes,
        "VirtualSize": image.size_bytes,
    }


def _render_image(agent: AgentServices, image: Image) -> dict[str, Any]:
    raw = msgspec.json.decode(agent.images.raw_config(image), type=dict[str, Any])
    return {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Parent": "",
        "Comment": raw.get("comment", ""),
        "Created": image.created or ZERO_TIME,
        "Container": raw.get("container", ""),
        "ContainerConfig": {**_EMPTY_CONFIG, **(raw.get("container_config") or {})},
        "DockerVersion": raw.get("docker_version", ""),
        "Author": raw.get("author", ""),
        "Config": {**_EMPTY_CONFIG, **(raw.get("config") or {})},
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size_bytes,
        "VirtualSize": image.size_bytes,
        "GraphDriver": {"Data": None, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": list(image.layer_ids)},
        "Metadata": {"LastTagTime": ZERO_TIME},
    }


def _find(agent: AgentServices, reference: str) -> Image:
    image = agent.images.get(reference)
    if image is None:
        raise NotFound(f"No such image: {reference}")
    return image
