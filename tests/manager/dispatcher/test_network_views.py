"""Network views and the messages that carry them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common import wire
from pyswarm_common.objects import (
    Cluster,
    Network,
    NetworkAttachment,
    Node,
    NodeDescription,
    NodeStatus,
    Service,
    Task,
    TaskSpec,
    TaskStatus,
    VirtualIP,
)
from pyswarm_common.task_states import TaskState
from pyswarm_manager.dispatcher.assignments import Sent, next_assignments
from pyswarm_manager.dispatcher.network_views import NetworkViews, compute_view
from pyswarm_manager.store.tables import Tables

TEMPLATE = b'{"ContainerSpec":{"Image":"x"},"Networks":[{"Target":"net","Aliases":["www"]}]}'


def task(number: int, state: TaskState = TaskState.RUNNING, desired: TaskState = TaskState.RUNNING) -> Task:
    return Task(
        id=f"t{number}",
        task_spec_id="spec",
        service_id="svc",
        slot=number,
        node_id=f"n{number % 2}",
        status=TaskStatus(state=state),
        desired_state=desired,
        attachments=(NetworkAttachment(network_id="net", address=f"10.0.1.{10 + number}/24"),),
    )


@pytest.fixture
def tables() -> Tables:
    tables = Tables()
    tables.table(Cluster).put(Cluster(id="c"), 1)
    for index in range(2):
        description = NodeDescription(hostname=f"h{index}", data_path_address=f"192.0.2.{index + 1}")
        tables.nodes.put(Node(id=f"n{index}", description=description, status=NodeStatus(state="ready")), 1)
    tables.networks.put(Network(id="net", name="app", vni=4097, subnet="10.0.1.0/24", gateway="10.0.1.1"), 1)
    vip = VirtualIP(network_id="net", address="10.0.1.2/24")
    tables.services.put(Service(id="svc", name="web", task_spec_id="spec", virtual_ips=(vip,)), 1)
    tables.task_specs.put(TaskSpec(id="spec", template_json=TEMPLATE), 1)
    return tables


def put(tables: Tables, views: NetworkViews, changed: Task) -> None:
    views.note_task(tables.tasks.put(changed, 1), changed)


def views_of(tables: Tables) -> NetworkViews:
    views = NetworkViews()
    views.note_network(None, tables.networks.must_get("net"))
    views.refresh(tables, 1)
    return views


def test_an_unhealthy_task_is_no_backend_but_keeps_its_place(tables: Tables) -> None:
    views = views_of(tables)
    put(tables, views, task(1))
    put(tables, views, task(2))
    views.refresh(tables, 2)
    unhealthy = TaskStatus(state=TaskState.RUNNING, error="unhealthy container")
    put(tables, views, msgspec.structs.replace(task(2), status=unhealthy))
    assert views.refresh(tables, 3) == {"net"}
    view = views.published["net"].view
    assert view.services["svc"].backends == ("10.0.1.11",)
    assert sorted(view.endpoints) == ["t1", "t2"]


def test_a_view_names_the_service_its_vip_and_its_running_tasks_only(tables: Tables) -> None:
    views = views_of(tables)
    put(tables, views, task(1))
    put(tables, views, task(2, state=TaskState.STARTING))
    put(tables, views, task(3, desired=TaskState.SHUTDOWN))
    put(tables, views, task(4, state=TaskState.FAILED))
    assert views.refresh(tables, 2) == {"net"}
    view = views.published["net"].view
    assert view.services["svc"] == wire.ServiceEndpoints(names=("web", "www"), virtual_ip="10.0.1.2", backends=("10.0.1.11",))
    assert sorted(view.endpoints) == ["t1", "t2", "t3"]
    assert view.endpoints["t1"] == wire.Endpoint(address="10.0.1.11/24", data_path_address="192.0.2.2", name="web.1.t1")


def test_a_task_without_a_slot_is_named_by_its_node(tables: Tables) -> None:
    views = views_of(tables)
    put(tables, views, msgspec.structs.replace(task(1), slot=0))
    views.refresh(tables, 2)
    assert views.published["net"].view.endpoints["t1"].name == "web.n1.t1"
    assignments, _ = next_assignments(tables, "n1", Sent(), views.published, is_complete=True)
    assert assignments is not None
    assert [t.name for t in assignments.tasks] == ["web.n1.t1"]


def test_a_services_labels_are_sent_only_where_a_placeholder_needs_them(tables: Tables) -> None:
    service = tables.services.must_get("svc")
    tables.services.put(msgspec.structs.replace(service, spec_json=b'{"Labels":{"tier":"front"}}'), 1)
    tables.tasks.put(task(1), 1)

    def labels(env: str) -> dict[str, str]:
        template = msgspec.json.encode({"ContainerSpec": {"Env": [env]}})
        tables.task_specs.put(TaskSpec(id=task(1).task_spec_id, template_json=template), 1)
        message, _ = next_assignments(tables, "n1", Sent(), {}, is_complete=True)
        assert message is not None
        return message.tasks[0].service_labels

    assert labels("A={{.Service.Name}}") == {}
    assert labels('A={{index .Service.Labels "tier"}}') == {"tier": "front"}


def test_the_first_slot_of_a_replicated_job_is_slot_0(tables: Tables) -> None:
    job = msgspec.structs.replace(tables.services.must_get("svc"), spec_json=b'{"Mode":{"ReplicatedJob":{}}}')
    tables.services.put(job, 1)
    tables.tasks.put(msgspec.structs.replace(task(1), slot=0), 1)
    assignments, _ = next_assignments(tables, "n1", Sent(), {}, is_complete=True)
    assert assignments is not None
    assert [t.name for t in assignments.tasks] == ["web.0.t1"]


def test_the_tasks_of_a_dead_node_leave_the_view(tables: Tables) -> None:
    views = views_of(tables)
    put(tables, views, task(1))
    put(tables, views, task(2))
    views.refresh(tables, 2)
    before = tables.nodes.must_get("n1")
    down = msgspec.structs.replace(before, status=NodeStatus(state="down"))
    tables.nodes.put(down, 3)
    views.note_node(before, down)
    assert views.refresh(tables, 3) == {"net"}
    assert list(views.published["net"].view.endpoints) == ["t2"]


def test_a_change_that_does_not_concern_the_view_keeps_its_version(tables: Tables) -> None:
    views = views_of(tables)
    put(tables, views, task(1))
    views.refresh(tables, 2)
    put(tables, views, msgspec.structs.replace(task(1), updated_at_ns=5))
    assert views.refresh(tables, 3) == set()
    assert views.published["net"].view.version == 2


@given(st.lists(st.lists(st.tuples(st.integers(1, 6), st.sampled_from(TaskState)), max_size=6), max_size=6))
def test_following_the_deltas_gives_the_whole_view(steps: list[list[tuple[int, TaskState]]]) -> None:
    tables = Tables()
    tables.table(Cluster).put(Cluster(id="c"), 1)
    tables.nodes.put(Node(id="n0"), 1)
    tables.nodes.put(Node(id="n1"), 1)
    tables.networks.put(Network(id="net", name="app", vni=4097), 1)
    tables.services.put(Service(id="svc", name="web", task_spec_id="spec"), 1)
    tables.task_specs.put(TaskSpec(id="spec", template_json=TEMPLATE), 1)
    views = views_of(tables)
    held = views.published["net"].view
    for version, step in enumerate(steps, 2):
        for number, state in step:
            put(tables, views, task(number, state=state))
        if "net" in views.refresh(tables, version):
            published = views.published["net"]
            held = wire.apply_view_delta(held, msgspec.msgpack.decode(published.delta, type=wire.NetworkViewDelta))
        assert held == views.published["net"].view


def test_an_agent_gets_a_complete_set_then_only_what_changed(tables: Tables) -> None:
    views = views_of(tables)
    put(tables, views, task(1))
    views.refresh(tables, 2)
    message, sent = next_assignments(tables, "n1", Sent(), views.published, is_complete=True)
    assert message is not None
    assert [t.name for t in message.tasks] == ["web.1.t1"]
    assert message.task_specs == {"spec": TEMPLATE}
    assert len(message.views) == 1
    assert next_assignments(tables, "n1", sent, views.published, is_complete=False) == (None, sent)

    put(tables, views, task(1, desired=TaskState.SHUTDOWN))
    put(tables, views, task(3))
    views.refresh(tables, 3)
    message, sent = next_assignments(tables, "n1", sent, views.published, is_complete=False)
    assert message is not None
    assert [(t.task_id, t.desired_state) for t in message.tasks] == [("t1", TaskState.SHUTDOWN), ("t3", TaskState.RUNNING)]
    assert (message.task_specs, len(message.views), len(message.view_deltas)) == ({}, 0, 1)


def test_a_view_is_taken_back_when_no_living_task_needs_it(tables: Tables) -> None:
    views = views_of(tables)
    put(tables, views, task(1))
    views.refresh(tables, 2)
    _, sent = next_assignments(tables, "n1", Sent(), views.published, is_complete=True)
    put(tables, views, task(1, state=TaskState.SHUTDOWN))
    views.refresh(tables, 3)
    message, _ = next_assignments(tables, "n1", sent, views.published, is_complete=False)
    assert message is not None
    assert message.removed_views == ("net",)


def test_a_returning_agent_is_not_sent_the_view_that_it_holds(tables: Tables) -> None:
    views = views_of(tables)
    put(tables, views, task(1))
    views.refresh(tables, 2)
    message, _ = next_assignments(tables, "n1", Sent(views={"net": 2}), views.published, is_complete=True)
    assert message is not None
    assert (message.views, message.view_deltas) == ((), ())


@given(st.lists(st.lists(st.tuples(st.integers(1, 6), st.sampled_from(TaskState), st.booleans()), max_size=6), max_size=6))
def test_looking_at_the_touched_tasks_alone_says_the_same_as_looking_at_all(steps: list[list[tuple[int, TaskState, bool]]]) -> None:
    tables = Tables()
    tables.task_specs.put(TaskSpec(id="spec", template_json=TEMPLATE), 1)
    sent = by_touch = Sent()
    for step in steps:
        for number, state, is_there in step:
            if is_there:
                tables.tasks.put(task(number, state=state), 1)
            else:
                tables.tasks.delete(f"t{number}")
        touched = sorted({f"t{number}" for number, _, _ in step})
        message, sent = next_assignments(tables, "n1", sent, {}, is_complete=False)
        message_by_touch, by_touch = next_assignments(tables, "n1", by_touch, {}, is_complete=False, touched=touched)
        assert sent == by_touch
        assert (message is None) == (message_by_touch is None)
        if message is not None and message_by_touch is not None:
            assert sorted(message.tasks, key=str) == sorted(message_by_touch.tasks, key=str)
            assert set(message.removed_tasks) == set(message_by_touch.removed_tasks)


STATES = [TaskState.NEW, TaskState.STARTING, *[TaskState.RUNNING] * 4, TaskState.SHUTDOWN]
DESIRED = [*[TaskState.RUNNING] * 4, TaskState.SHUTDOWN]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 3), st.sampled_from(STATES), st.sampled_from(DESIRED), st.integers(1, 9)),
        st.tuples(st.sampled_from(["n0", "n1"]), st.sampled_from(["ready", "down"])),
        st.integers(1, 3),
        st.just("refresh"),
    ),
    max_size=30,
)


@given(STEPS)
def test_a_view_that_followed_changes_is_the_one_that_a_new_leader_computes(steps: list[Any]) -> None:
    tables = Tables()
    tables.table(Cluster).put(Cluster(id="c"), 1)
    tables.networks.put(Network(id="net", name="app", vni=4097), 1)
    tables.task_specs.put(TaskSpec(id="spec", template_json=TEMPLATE), 1)
    for number in range(3):
        tables.services.put(Service(id=f"s{number}", name=f"web{number}", task_spec_id="spec"), 1)
    for number in range(2):
        tables.nodes.put(Node(id=f"n{number}", status=NodeStatus(state="ready")), 1)
    views = views_of(tables)
    for version, step in enumerate([*steps, "refresh"], 2):
        match step:
            case "refresh":
                views.refresh(tables, version)
                whole = compute_view(tables, tables.networks.must_get("net"), tables.tasks, version)
                assert msgspec.structs.replace(views.published["net"].view, version=version) == whole
            case (str() as node_id, state):
                before = tables.nodes.must_get(node_id)
                after = msgspec.structs.replace(before, status=NodeStatus(state=state))
                tables.nodes.put(after, version)
                views.note_node(before, after)
            case (int() as number, state, desired, address):
                place = NetworkAttachment(network_id="net", address=f"10.0.1.{10 * number + address}/24")
                changed = msgspec.structs.replace(task(number, state, desired), service_id=f"s{number % 2}", attachments=(place,))
                known = tables.tasks.get(changed.id)
                if known is not None:  # a task never changes its address
                    changed = msgspec.structs.replace(changed, attachments=known.attachments)
                put(tables, views, changed)
            case int() as number if f"t{number}" in tables.tasks:
                views.note_task(tables.tasks.delete(f"t{number}"), None)
