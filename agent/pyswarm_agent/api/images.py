"""The routes of images and of registries: pull, load, list, inspect, tag, remove, distribution."""

from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import AgentServices, agent_of
from pyswarm_agent.api.progress import stream_progress
from pyswarm_agent.images import Image, RegistryAuth
from pyswarm_agent.images.records import registry_auth_of_header
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import ZERO_TIME, JSONResponse, query_flag
from pyswarm_common.engine_api.streams import json_line
from pyswarm_common.errors import InvalidArgument, NotFound, Unimplemented

router = APIRouter()

_FILTERS = ("reference", "dangling", "label", "before", "since", "until")
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
    """List this node's images."""
    filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
    images = agent_of(request).images.list()
    return JSONResponse([render_image_summary(image) for image in images if _matches(image, filters)])


@router.post("/images/create")
async def pull_image(request: Request) -> Response:
    """Pull an image, reporting progress."""
    name, tag = request.query_params.get("fromImage", ""), request.query_params.get("tag", "")
    if not name:
        raise Unimplemented("importing an image from a tarball of its files is not supported: use docker load")
    reference = f"{name}{'@' if tag.startswith('sha256:') else ':'}{tag}" if tag else name
    images = agent_of(request).images
    auth = _registry_auth(request)
    return await stream_progress(lambda progress: images.pull(reference, auth=auth, progress=progress))


@router.post("/images/load")
async def load_images(request: Request) -> Response:
    """Load the images of a tarball."""
    names = await agent_of(request).images.load(request.stream())
    lines = [json_line({"stream": f"Loaded image{' ID' if name.startswith('sha256:') else ''}: {name}\n"}) for name in names]
    return Response(b"".join(lines), media_type="application/json")


@router.post("/images/prune")
async def prune_images(request: Request) -> Response:
    """Remove layers that no image has; images without a name are never kept."""
    agent = agent_of(request)
    removed = await agent.images.collect_garbage(agent.content_in_use())
    return JSONResponse({"ImagesDeleted": [{"Deleted": digest} for digest in removed] or None, "SpaceReclaimed": 0})


@router.get("/images/{reference:path}/json")
async def inspect_image(request: Request, reference: str) -> Response:
    """Show one image."""
    agent = agent_of(request)
    return JSONResponse(_render_image(agent, _find(agent, reference)))


@router.post("/images/{reference:path}/tag")
async def tag_image(request: Request, reference: str) -> Response:
    """Give an image another name."""
    repository, tag = request.query_params.get("repo", ""), request.query_params.get("tag", "")
    if not repository:
        raise InvalidArgument("invalid reference format: the new name is missing")
    agent_of(request).images.tag(reference, f"{repository}:{tag}" if tag else repository)
    return Response(status_code=201)


@router.delete("/images/{reference:path}")
async def remove_image(request: Request, reference: str) -> Response:
    """Take a name of an image away, and with the last one the image."""
    agent = agent_of(request)
    return JSONResponse(agent.images.remove(reference, force=query_flag(request, "force"), in_use=agent.content_in_use()))


@router.get("/distribution/{reference:path}/json")
async def inspect_distribution(request: Request, reference: str) -> Response:
    """Show what the registry has under a name; `service create` asks this for the digest."""
    found = await agent_of(request).images.resolve_digest(reference, auth=_registry_auth(request))
    platforms = [_without_empty({"architecture": p.architecture, "os": p.os, "variant": p.variant}) for p in found.platforms]
    descriptor = {"mediaType": found.media_type, "digest": found.digest, "size": found.size_bytes}
    return JSONResponse({"Descriptor": descriptor, "Platforms": platforms})


def render_image_summary(image: Image) -> dict[str, Any]:
    """Return an image as the list shows it."""
    return {
        "Containers": -1,
        "Created": int(_created(image).timestamp()) if image.created else 0,
        "Id": image.id,
        "Labels": image.config.labels or None,
        "ParentId": "",
        "RepoDigests": list(image.repo_digests) or None,
        "RepoTags": list(image.repo_tags) or None,
        "SharedSize": -1,
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


def _registry_auth(request: Request) -> RegistryAuth | None:
    return registry_auth_of_header(request.headers.get("x-registry-auth", ""))


def _matches(image: Image, filters: Filters) -> bool:
    is_dangling = not image.repo_tags
    wanted = {value in ("true", "1") for value in filters.values("dangling")}
    return (
        (not wanted or is_dangling in wanted)
        and filters.allows_labels("label", image.config.labels)
        and ("reference" not in filters or any(_names(image, r) for r in filters.values("reference")))
    )


def _names(image: Image, pattern: str) -> bool:
    """Whether a name of the image, or its repository, fits the pattern (`*` and `?` as in file names, not across `/`)."""
    names = [*image.repo_tags, *(tag.rpartition(":")[0] for tag in image.repo_tags), *image.repo_digests]
    return any(_fits(name, pattern) for name in names)


def _fits(name: str, pattern: str) -> bool:
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(fnmatchcase(part, one) for part, one in zip(parts, patterns, strict=True))


def _created(image: Image) -> datetime:
    return datetime.fromisoformat(image.created)


def _without_empty(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
