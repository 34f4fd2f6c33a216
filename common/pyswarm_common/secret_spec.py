"""The typed view of what users post of a secret or a config, and how a task's container names those that it needs."""

from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from pyswarm_common.container_spec import ConfigReference, ContainerSpec, Driver, FileTarget, SecretReference
from pyswarm_common.spec_base import Spec

ContentNoun: TypeAlias = Literal["secret", "config"]


class SecretSpec(Spec, frozen=True, kw_only=True):
    """A secret or config. `data` is kept apart from the stored spec; `templating` names what fills its placeholders in."""

    name: str = ""
    labels: dict[str, str] | None = None
    data: bytes | None = None
    driver: Driver | None = None
    templating: Driver | None = None

    @property
    def is_template(self) -> bool:
        """Whether the data holds placeholders that are filled in for each task."""
        return self.templating is not None and bool(self.templating.name)


class ContentReference(NamedTuple):
    """That a container needs a secret or config; `file` None: not as a file."""

    noun: ContentNoun
    id: str
    name: str
    file: FileTarget | None
    has_target: bool


class FilesOfContainer(Spec, frozen=True, kw_only=True):
    """The part of a container's spec that names secrets and configs."""

    secrets: list[SecretReference] | None = None
    configs: list[ConfigReference] | None = None


class _FilesOfTask(Spec, frozen=True, kw_only=True):
    container_spec: FilesOfContainer | None = None


@lru_cache(maxsize=8192)
def decode_secret_spec(raw: bytes) -> SecretSpec:
    """Return the typed view of a stored spec's JSON. Raises msgspec.ValidationError."""
    return msgspec.json.decode(raw, type=SecretSpec)


def content_references(container: ContainerSpec | FilesOfContainer) -> list[ContentReference]:
    """Return the secrets and then the configs that a container names."""
    secrets = [ContentReference("secret", r.secret_id, r.secret_name, r.file, r.file is not None) for r in container.secrets or ()]
    configs = [
        ContentReference("config", r.config_id, r.config_name, r.file, r.file is not None or r.runtime is not None)
        for r in container.configs or ()
    ]
    return secrets + configs


@lru_cache(maxsize=8192)
def content_ids_of_template(template_json: bytes) -> tuple[str, ...]:
    """Return the ids of the secrets and configs that a task template's JSON names, each once. Raises msgspec.ValidationError."""
    container = msgspec.json.decode(template_json, type=_FilesOfTask).container_spec or FilesOfContainer()
    return tuple(dict.fromkeys(reference.id for reference in content_references(container)))
