"""The routes that bring images here or take them away: pull, import, load, save, push; and registries: distribution, login."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_agent.api.agent_services import agent_of
from pyswarm_agent.api.progress import stream_progress
from pyswarm_agent.images import ImageStore, PushedTag, RegistryAuth
from pyswarm_agent.images.records import PullProgress, registry_auth_of_header
from pyswarm_common.engine_api.responses import JSONResponse, read_json_object
from pyswarm_common.engine_api.streams import StreamResponse, Write, json_line
from pyswarm_common.errors import InvalidArgument, Unimplemented

router = APIRouter()


@router.post("/images/create")
async def pull_or_import_image(request: Request) -> Response:
    """Pull an image, reporting progress; or import one from a tarball of its files, which is the request's body."""
    query = request.query_params
    name, tag = query.get("fromImage", ""), query.get("tag", "")
    if not name:
        return await _import_image(request)
    agent, auth = agent_of(request), _registry_auth(request)
    reference = _joined(name, tag)

    async def pull(progress: Callable[[PullProgress], None]) -> object:
        image = await agent.images.pull(reference, auth=auth, progress=progress)
        agent.events.publish("image", "pull", reference, {"name": reference})
        return image

    return await stream_progress(pull)


@router.post("/images/load")
async def load_images(request: Request) -> Response:
    """Load the images of a tarball."""
    agent = agent_of(request)
    names = await agent.images.load(request.stream())
    for name in names:
        agent.events.publish("image", "load", name, {"name": name})
    lines = [json_line({"stream": f"Loaded image{' ID' if name.startswith('sha256:') else ''}: {name}\n"}) for name in names]
    return Response(b"".join(lines), media_type="application/json")


@router.get("/images/get")
async def save_images(request: Request) -> Response:
    """Return a tarball of several images."""
    names = [name for value in request.query_params.getlist("names") for name in value.split(",") if name]
    if not names:
        raise InvalidArgument("no image was named: give names=IMAGE")
    return _saved(agent_of(request).images, names)


@router.get("/images/{reference:path}/get")
async def save_image(request: Request, reference: str) -> Response:
    """Return a tarball of one image."""
    return _saved(agent_of(request).images, [reference])


@router.post("/images/{reference:path}/push")
async def push_image(request: Request, reference: str) -> Response:
    """Push an image to the registry that its name says, reporting progress; without a tag all tags of the repository."""
    images, auth = agent_of(request).images, _registry_auth(request)
    name = _joined(reference, request.query_params.get("tag", ""))

    def answer_of(pushed: list[PushedTag]) -> Iterator[object]:
        return ({"progressDetail": {}, "aux": tag} for tag in pushed)

    return await stream_progress(lambda progress: images.push(name, auth=auth, progress=progress), answer_of)


@router.get("/distribution/{reference:path}/json")
async def inspect_distribution(request: Request, reference: str) -> Response:
    """Show what the registry has under a name; `service create` asks this for the digest."""
    found = await agent_of(request).images.resolve_digest(reference, auth=_registry_auth(request))
    platforms = [_without_empty({"architecture": p.architecture, "os": p.os, "variant": p.variant}) for p in found.platforms]
    descriptor = {"mediaType": found.media_type, "digest": found.digest, "size": found.size_bytes}
    return JSONResponse({"Descriptor": descriptor, "Platforms": platforms})


@router.post("/auth")
async def check_credentials(request: Request) -> Response:
    """Check credentials at a registry."""
    body = await read_json_object(request)
    auth = RegistryAuth(
        username=str(body.get("username", "")),
        password=str(body.get("password", "")),
        identity_token=str(body.get("identitytoken", "")),
        registry_token=str(body.get("registrytoken", "")),
    )
    token = await agent_of(request).images.log_in(str(body.get("serveraddress", "")), auth)
    return JSONResponse({"Status": "Login Succeeded", "IdentityToken": token})


@router.post("/build")
async def build_image(request: Request) -> Response:
    """Build an image: not offered."""
    raise Unimplemented(
        "building images is not supported: build them elsewhere, then push them to a registry or load their tarball"
    )


@router.post("/commit")
async def commit_container(request: Request) -> Response:
    """Make an image of a container: not offered."""
    raise Unimplemented("making images of containers is not supported: export the container's files and import them")


async def _import_image(request: Request) -> Response:
    query = request.query_params
    if query.get("fromSrc", "") != "-":
        raise Unimplemented("importing from an address is not supported: download the tarball and give it to docker import")
    repository, tag = query.get("repo", ""), query.get("tag", "")
    image_id = await agent_of(request).images.import_files(
        request.stream(),
        _joined(repository, tag) if repository else "",
        changes=query.getlist("changes"),
        message=query.get("message", ""),
    )
    return Response(json_line({"status": image_id}), media_type="application/json")


def _saved(images: ImageStore, names: Sequence[str]) -> Response:
    tarball = images.save(names)

    async def produce(write: Write) -> None:
        # A layer that cannot be packed after all breaks the connection off: nobody may take half a tarball for a whole one.
        async with aclosing(tarball):
            async for data in tarball:
                await write(data)

    return StreamResponse(produce, "application/x-tar")


def _joined(name: str, tag: str) -> str:
    return f"{name}{'@' if tag.startswith('sha256:') else ':'}{tag}" if tag else name


def _registry_auth(request: Request) -> RegistryAuth | None:
    return registry_auth_of_header(request.headers.get("x-registry-auth", ""))


def _without_empty(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
