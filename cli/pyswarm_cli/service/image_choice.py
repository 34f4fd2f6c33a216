"""Which version of an image a service gets, and with whose credentials nodes fetch it."""

from collections.abc import Mapping
from typing import Any

import click

from pyswarm_cli.engine import EngineClient, EngineError
from pyswarm_cli.image.names import split_reference
from pyswarm_cli.output import with_options

image_options = with_options(
    click.option("--no-resolve-image", is_flag=True, help="Do not record the image's digest: each node fetches the tag by itself."),
    click.option(
        "--with-registry-auth", is_flag=True, help="Give nodes the credentials of `pyswarm login`, to fetch the image with."
    ),
)


def resolve_query(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the query that says whether the manager records the image's digest, which it does if nothing is said."""
    return {"resolveImage": "false"} if options["no_resolve_image"] else {}


def registry_headers(options: Mapping[str, Any], image: str) -> dict[str, str]:
    """Return the header with the credentials for an image's registry, if nodes shall have them and there are any."""
    if not options["with_registry_auth"]:
        return {}
    from pyswarm_cli.registry.docker_config import auth_header

    return auth_header(image)


def resolved_image(engine: EngineClient, options: Mapping[str, Any], image: str) -> str:
    """Return the image with the digest that its registry has now; as it is where there is nobody to ask, and the manager warns."""
    if not image or "@" in image or options["no_resolve_image"]:
        return image
    try:
        found = engine.get("distribution", image, "json", headers=registry_headers(options, image))
    except EngineError:
        return image
    repository, tag = split_reference(image)
    return f"{repository}:{tag or 'latest'}@{found['Descriptor']['digest']}"


def image_of(spec: Mapping[str, Any]) -> str:
    """Return the image in a service's spec."""
    return str(((spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}).get("Image") or "")
