"""From the posted JSON of a service to what the store keeps, and the other way.

Everything a user posts comes back unchanged, known to us or not. Filled in is only what Docker fills in on create. The task
template is kept apart from the rest, as it becomes a task spec of its own; networks of the (older) top level move into it.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from pyswarm_common.engine_api.responses import refuse_unsupported
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.own_networks import id_in_swarm, own_network_of
from pyswarm_common.specs import ServiceSpec
from pyswarm_manager.store.tables import View

_MEANS_SOMETHING_WHEN_ZERO = frozenset({"StopGracePeriod", "Delay", "MaxAttempts", "Window", "Init"})
"""Members of a task template that are pointers in Docker's types: absent and zero are two things."""


@dataclass(frozen=True)
class ServiceDraft:
    """A service as posted and filled: its name, its spec without the task template, and the template."""

    name: str
    spec: dict[str, Any]
    template: dict[str, Any]
    typed: ServiceSpec
    """The typed view of both together."""

    @property
    def spec_json(self) -> bytes:
        """The spec without its task template, as the store keeps it."""
        return msgspec.json.encode(self.spec)


def draft_service(body: dict[str, Any]) -> ServiceDraft:
    """Return the draft of a posted service (without nulls, names in canonical case). Raises InvalidArgument and Unimplemented."""
    spec = {key: value for key, value in body.items() if key not in ("TaskTemplate", "Networks")}
    template = _object(body, "TaskTemplate")
    networks = template.get("Networks") or body.get("Networks")
    if networks:
        template = {**template, "Networks": networks}
    _refuse_other_runtimes(template)
    spec, template = _fill_spec(spec), _fill_template(template)
    try:
        typed = msgspec.convert({**spec, "TaskTemplate": template}, ServiceSpec)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid service spec: {error}") from error
    return ServiceDraft(name=typed.name, spec=spec, template=template, typed=typed)


def with_image(draft: ServiceDraft, image: str) -> ServiceDraft:
    """Return the draft with another image."""
    template = {**draft.template, "ContainerSpec": {**draft.template["ContainerSpec"], "Image": image}}
    return ServiceDraft(draft.name, draft.spec, template, msgspec.convert({**draft.spec, "TaskTemplate": template}, ServiceSpec))


def resolve_networks(template: dict[str, Any], view: View) -> dict[str, Any]:
    """Return the template with its network targets as ids. Raises NotFound, InvalidArgument."""
    if not template.get("Networks"):
        return template
    return {**template, "Networks": [{**n, "Target": _network_id(n.get("Target", ""), view)} for n in template["Networks"]]}


def with_registry_auth(template: dict[str, Any], registry_auth: str) -> dict[str, Any]:
    """Return the template with the credentials to pull its image with; "" leaves it as it is."""
    if not registry_auth or "ContainerSpec" not in template:
        return template
    container = {**template["ContainerSpec"], "PullOptions": {"RegistryAuth": registry_auth}}
    return {**template, "ContainerSpec": container}


def registry_auth_of(template_json: bytes) -> str:
    """Return the pull credentials that a stored template holds; "" for none."""
    container = msgspec.json.decode(template_json, type=dict[str, Any]).get("ContainerSpec", {})
    auth: str = container.get("PullOptions", {}).get("RegistryAuth", "")
    return auth


def visible_template(template_json: bytes) -> dict[str, Any]:
    """Return a stored template as the API shows it: without pull credentials."""
    template = msgspec.json.decode(template_json, type=dict[str, Any])
    template.get("ContainerSpec", {}).pop("PullOptions", None)
    return template


def is_same_template(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two templates mean the same: clients that read and post a spec back drop or add empty members."""
    return bool(_meaning(one) == _meaning(other))


def _meaning(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _meaning(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item or (key in _MEANS_SOMETHING_WHEN_ZERO and item is not None)}
    if isinstance(value, list):
        return [_meaning(item) for item in value]
    return value


def _network_id(target: str, view: View) -> str:
    own = own_network_of(target)
    if own:
        return id_in_swarm(own)
    network = view.networks.resolve(target)
    if network.spec.ingress:
        raise InvalidArgument(
            f'Service cannot be explicitly attached to the ingress network "{network.name}"', grpc_code="InvalidArgument"
        )
    return network.id


def _fill_spec(spec: dict[str, Any]) -> dict[str, Any]:
    filled = {**spec, "Labels": spec.get("Labels") or {}, "Mode": spec.get("Mode") or {"Replicated": {"Replicas": 1}}}
    if isinstance(filled["Mode"], dict) and filled["Mode"].get("Replicated") == {}:
        filled["Mode"] = {**filled["Mode"], "Replicated": {"Replicas": 1}}
    if isinstance(filled["Mode"], dict) and isinstance(filled["Mode"].get("ReplicatedJob"), dict):
        job = filled["Mode"]["ReplicatedJob"]
        concurrent = job.get("MaxConcurrent", 1)
        filled["Mode"] = {**filled["Mode"], "ReplicatedJob": {"MaxConcurrent": concurrent, "TotalCompletions": concurrent, **job}}
    endpoint = _object(spec, "EndpointSpec")
    if "EndpointSpec" in spec:
        endpoint = {**endpoint, "Mode": endpoint.get("Mode") or "vip"}
        if isinstance(endpoint.get("Ports"), list):
            endpoint["Ports"] = [_fill_port(port) for port in endpoint["Ports"]]
        filled["EndpointSpec"] = endpoint
    return filled


def _fill_port(port: Any) -> Any:
    if not isinstance(port, dict):
        return port
    return {**port, "Protocol": port.get("Protocol") or "tcp", "PublishMode": port.get("PublishMode") or "ingress"}


def _fill_template(template: dict[str, Any]) -> dict[str, Any]:
    filled = {"ForceUpdate": 0, **template, "Runtime": template.get("Runtime") or "container"}
    container = _object(template, "ContainerSpec")
    filled["ContainerSpec"] = {**container, "Isolation": container.get("Isolation") or "default"}
    return filled


def _refuse_other_runtimes(template: dict[str, Any]) -> None:
    refuse_unsupported(template, {"PluginSpec": "a plugin service", "NetworkAttachmentSpec": "a network attachment task"})
    if template.get("Runtime", "container") not in ("", "container"):
        raise InvalidArgument(f'runtime "{template["Runtime"]}" is not supported: only containers are')


def _object(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key, {})
    if not isinstance(value, dict):
        raise InvalidArgument(f"invalid service spec: {key} must be an object")
    return value
