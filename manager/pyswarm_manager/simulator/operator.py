"""The imagined operator: makes the cluster of a scenario, and does to it what its events say, through the API's own functions."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from pyswarm_common.errors import InvalidArgument, PyswarmError
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Cluster, Network, Node, Task
from pyswarm_manager.api import service_changes
from pyswarm_manager.api.service_spec import ServiceDraft, draft_service
from pyswarm_manager.api.service_validation import validate_service
from pyswarm_manager.simulator.behaviour import JOB_RUN_TIME, STANDARD, overlaid
from pyswarm_manager.simulator.head import Head
from pyswarm_manager.simulator.scenario import Behaviour, Labels, NodeGroup, Scenario, ServiceSection
from pyswarm_manager.simulator.specs import dealt_labels, make_node, service_body, service_names
from pyswarm_manager.store.transaction import Transaction

Edit = Callable[[ServiceSection], ServiceSection]


class Operator:
    """Knows the scenario's names, and what was last asked of each service."""

    def __init__(self, head: Head, scenario: Scenario) -> None:
        self._head = head
        self._scenario = scenario
        self._groups = {group.name: group for group in scenario.nodes}
        self._group_sizes = dict.fromkeys(self._groups, 0)
        self._names = {section.name: service_names(section) for section in scenario.services}
        self._sections: dict[str, ServiceSection] = {}
        self._previous: dict[str, ServiceSection] = {}
        self._service_ids: dict[str, str] = {}
        self._behaviours: dict[str, Behaviour] = {}
        self._standard = overlaid(STANDARD, scenario.agents)
        for section in scenario.services:
            _draft(section, section.name)

    def found(self) -> None:
        """Make the cluster with its networks and its first nodes."""
        settings = self._scenario.simulation
        cluster = Cluster(id="cluster", task_history_limit=settings.task_history_limit, default_address_pool=settings.address_pool)
        wanted = {network.name: network.subnet for network in self._scenario.networks}
        for section in self._scenario.services:
            for name in section.networks:
                wanted.setdefault(name, "")
        self._head.update(lambda tx: tx.create(cluster))
        self._head.update(lambda tx: _create_all(tx, [_network(name, subnet) for name, subnet in wanted.items()]))
        for group in self._scenario.nodes:
            self.join(group.name, group.count)

    def join(self, group_name: str, count: int) -> list[str]:
        """Add nodes of a group; returns their ids."""
        group, first = self._groups[group_name], self._group_sizes[group_name] + 1
        self._group_sizes[group_name] += count
        nodes = [make_node(group, number) for number in range(first, first + count)]
        self._head.update(lambda tx: _create_all(tx, nodes))
        return [node.id for node in nodes]

    def nodes_named(self, reference: str) -> list[str]:
        """Return the ids of a group's nodes that are in the cluster, in the order of their numbers, or of the one node meant."""
        if reference not in self._groups:
            return [reference] if reference in self._head.view.nodes else []
        numbered = (f"{reference}-{number}" for number in range(1, self._group_sizes[reference] + 1))
        return [node_id for node_id in numbered if node_id in self._head.view.nodes]

    def remove_nodes(self, node_ids: Iterable[str]) -> None:
        """Remove nodes from the cluster."""
        self._head.update(lambda tx: [tx.delete(Node, node_id) for node_id in node_ids])

    def set_availability(self, node_ids: Iterable[str], availability: str) -> None:
        """Activate, pause or drain nodes."""
        self._edit_nodes(node_ids, lambda spec: msgspec.structs.replace(spec, availability=availability))

    def label(self, node_ids: Iterable[str], labels: Labels) -> None:
        """Add labels to nodes; those with an empty value go."""
        for number, node_id in enumerate(node_ids, 1):
            dealt = dealt_labels(labels, number)

            def changed(spec: Any, dealt: dict[str, str] = dealt) -> Any:
                kept = {key: value for key, value in spec.labels.items() if key not in labels}
                return msgspec.structs.replace(spec, labels=kept | {k: v for k, v in dealt.items() if v})

            self._edit_nodes([node_id], changed)

    def create(self, section: ServiceSection) -> None:
        """Create a section's services."""
        for name in self._names[section.name]:
            service_id, spec_id, draft = new_id(), new_id(), _draft(section, name)

            def create(tx: Transaction, ids: tuple[str, str] = (service_id, spec_id), draft: ServiceDraft = draft) -> None:
                service_changes.create_service(tx, *ids, draft, "")

            self._head.update(create)
            self._service_ids[name] = service_id
            self._remember(name, section)

    def edit(self, reference: str, change: Edit) -> list[str]:
        """Update services; returns what was refused."""

        def one(name: str) -> None:
            section = change(self._sections[name])
            update = service_changes.ServiceUpdate(
                draft=_draft(section, name), version_index=self._version(name), new_task_spec_id=new_id()
            )
            self._head.update(lambda tx: service_changes.update_service(tx, self._service_ids[name], update))
            self._previous[name] = self._sections[name]
            self._remember(name, section)

        return self._each(reference, one)

    def roll_back(self, reference: str) -> list[str]:
        """Give services their previous spec; returns what was refused."""

        def one(name: str) -> None:
            self._head.update(lambda tx: service_changes.roll_back_service(tx, self._service_ids[name], self._version(name)))
            self._sections[name], self._previous[name] = self._previous[name], self._sections[name]

        return self._each(reference, one)

    def remove(self, reference: str) -> list[str]:
        """Remove services; returns what was refused."""
        return self._each(
            reference, lambda name: self._head.update(lambda tx: service_changes.remove_service(tx, self._service_ids[name]))
        )

    def behaviour_of(self, task: Task) -> Behaviour:
        """Return how this task fares on its node."""
        return self._behaviours.get(task.task_spec_id, self._standard)

    def group_of(self, node_id: str) -> NodeGroup | None:
        """Return the group that a node is of."""
        return self._groups.get(node_id.rpartition("-")[0])

    def _each(self, reference: str, do: Callable[[str], Any]) -> list[str]:
        refused = []
        for name in self._names.get(reference, [reference]):
            try:
                if name not in self._service_ids:
                    raise InvalidArgument(f"service {name} is not there")
                do(name)
            except PyswarmError as error:
                refused.append(error.message)
        return refused

    def _version(self, name: str) -> int:
        return self._head.view.services.version_of(self._service_ids[name])

    def _remember(self, name: str, section: ServiceSection) -> None:
        self._sections[name] = section
        service = self._head.view.services.must_get(self._service_ids[name])
        behaviour = overlaid(self._standard, section.behaviour)
        if service.spec.is_job and behaviour.run_time is None:
            behaviour = msgspec.structs.replace(behaviour, run_time=JOB_RUN_TIME)
        self._behaviours.setdefault(service.task_spec_id, behaviour)

    def _edit_nodes(self, node_ids: Iterable[str], change: Callable[[Any], Any]) -> None:
        def edit(tx: Transaction) -> None:
            for node_id in node_ids:
                node = tx.nodes.must_get(node_id)
                tx.update(msgspec.structs.replace(node, spec=change(node.spec)))

        self._head.update(edit)


def _draft(section: ServiceSection, name: str) -> ServiceDraft:
    try:
        draft = draft_service(service_body(section, name))
        validate_service(draft.typed)
    except PyswarmError as error:
        raise InvalidArgument(f"service {name}: {error.message}") from error
    return draft


def _network(name: str, subnet: str) -> Network:
    spec: dict[str, Any] = {"Name": name, "Driver": "overlay"}
    if subnet:
        spec["IPAM"] = {"Config": [{"Subnet": subnet}]}
    return Network(id=name, name=name, spec_json=msgspec.json.encode(spec))


def _create_all(tx: Transaction, items: Iterable[Any]) -> None:
    for item in items:
        tx.create(item)
