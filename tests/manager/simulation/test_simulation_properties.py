"""Sentences that hold in any simulation: random nodes, services and events, all loops together, at every moment and in the end."""

from collections import Counter, defaultdict
from typing import cast

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from pyswarm_common.objects import Service, Task
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.orchestration import orchestration_loops
from pyswarm_manager.simulator import scenario as words
from pyswarm_manager.simulator.amount_types import Chance, CPUs, Duration, Size, Span
from pyswarm_manager.simulator.simulation import Outcome, Simulation
from pyswarm_manager.store.store import Store

GROUPS = ("a", "b")
NAMES = ("web", "db", "jobs", "each")
CPU = SECOND_NS
GRID = Duration(SECOND_NS // 10)


def seconds(least: int, most: int) -> st.SearchStrategy[Duration]:
    return st.integers(least, most).map(lambda s: Duration(s * SECOND_NS))


def spans(most_tenths: int) -> st.SearchStrategy[Span]:
    tenths = st.tuples(st.integers(0, most_tenths), st.integers(0, most_tenths)).map(sorted)
    return tenths.map(lambda pair: Span(pair[0] * SECOND_NS // 10, pair[1] * SECOND_NS // 10))


update_sections = st.builds(
    words.UpdateSection,
    parallelism=st.integers(0, 3),
    delay=seconds(0, 3),
    failure_action=st.sampled_from(["pause", "continue", "rollback"]),
    monitor=seconds(0, 5),
    max_failure_ratio=st.sampled_from([0.0, 0.3, 1.0]),
    order=st.sampled_from(["stop-first", "start-first"]),
)
behaviours = st.builds(
    words.Behaviour,
    failure_probability=st.sampled_from([0.0, 0.0, 0.3, 0.7]).map(Chance),
    fails_after=spans(50),
)
groups = st.builds(
    words.NodeGroup,
    count=st.integers(1, 5),
    cpus=st.integers(1, 4).map(lambda cpus: CPUs(cpus * CPU)),
    memory=st.integers(1, 4).map(lambda gib: Size(gib << 30)),
    labels=st.sampled_from([{}, {"zone": "north"}, {"zone": ["north", "south"]}]),
    name=st.just("replaced"),
)
reservations = st.builds(
    words.Reservations,
    cpus=st.sampled_from([0, CPU // 2, CPU]).map(CPUs),
    memory=st.sampled_from([0, 512 << 20]).map(Size),
)


@st.composite
def services(draw: st.DrawFn, name: str) -> words.ServiceSection:
    mode = {"jobs": "replicated-job", "each": "global"}.get(name, "replicated")
    return words.ServiceSection(
        name=name,
        mode=cast("words.Mode", mode),
        replicas=draw(st.integers(0, 8)) if mode.startswith("replicated") else None,
        max_concurrent=draw(st.integers(1, 4)) if mode == "replicated-job" else None,
        reservations=draw(reservations),
        constraints=draw(st.sampled_from([[], [], ["node.labels.zone==north"]])),
        preferences=draw(st.sampled_from([[], ["node.labels.zone"]])),
        max_replicas_per_node=draw(st.integers(0, 3)) if mode == "replicated" else 0,
        restart_policy=words.RestartPolicySection(
            condition=draw(st.sampled_from(["any", "any", "on-failure", "none"])) if mode == "replicated" else None,
            delay=draw(seconds(0, 3)),
            max_attempts=draw(st.sampled_from([None, 2])),
        ),
        update_config=draw(st.none() | update_sections) if mode in ("replicated", "global") else None,
        behaviour=draw(behaviours),
        at=draw(seconds(0, 5)),
    )


def node_events(at: Duration) -> st.SearchStrategy[words.Event]:
    places = {"at": st.just(at), "nodes": st.sampled_from(GROUPS), "count": st.none() | st.integers(1, 3)}
    return st.one_of(
        st.builds(words.FailNodes, **places),
        st.builds(words.ReturnNodes, **places),
        st.builds(words.JoinNodes, **places),
        st.builds(words.RemoveNodes, **places),
        st.builds(words.SetAvailability, availability=st.sampled_from(["active", "drain", "pause"]), **places),
        st.builds(words.LabelNodes, labels=st.sampled_from([{"zone": "north"}, {"zone": "south"}]), **places),
    )


def service_events(at: Duration) -> st.SearchStrategy[words.Event]:
    times = st.just(at)
    kept = st.sampled_from(NAMES[:2])
    return st.one_of(
        st.builds(words.ScaleService, at=times, service=kept, replicas=st.integers(0, 9)),
        st.builds(words.UpdateService, at=times, service=kept, image=st.sampled_from(["v1", "v2", "v3"]), behaviour=behaviours),
        st.builds(words.UpdateService, at=times, service=st.just("each"), image=st.sampled_from(["v1", "v2"])),
        st.builds(words.RollBackService, at=times, service=kept),
        st.builds(words.RemoveService, at=times, service=st.sampled_from(NAMES)),
        st.builds(words.ChangeLeader, at=times, after=seconds(0, 3)),
    )


@st.composite
def scenarios(draw: st.DrawFn) -> words.Scenario:
    times = sorted(draw(st.lists(st.integers(1, 40), max_size=6)))
    events = [draw(st.one_of(node_events(Duration(t * SECOND_NS)), service_events(Duration(t * SECOND_NS)))) for t in times]
    return words.Scenario(
        simulation=words.Settings(
            seed=draw(st.integers(0, 99)),
            commit_time=Duration(0),
            duration=Duration(1800 * SECOND_NS),
            grid=Duration(SECOND_NS // 10),
        ),
        agents=words.Behaviour(prepare_time=draw(spans(5)), start_time=draw(spans(10)), stop_time=draw(spans(20))),
        nodes=tuple(words.NodeGroup(**{**_fields(draw(groups)), "name": name}) for name in GROUPS),
        services=tuple(draw(services(name)) for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))),
        events=tuple(events),
    )


def _fields(group: words.NodeGroup) -> dict[str, object]:
    return {name: getattr(group, name) for name in group.__struct_fields__}


anything = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)


class Watched:
    """A simulation whose sentences are checked at every moment."""

    def __init__(self, scenario: words.Scenario) -> None:
        self.simulation = Simulation(scenario)
        self.view = self.simulation.head.view
        self._may_overlap: set[str] = set()
        """Services with start-first updates."""
        self._left: set[str] = set()
        """Nodes that were drained: a task there runs until its successor does."""
        for section in scenario.services:
            if section.update_config is not None and section.update_config.order == "start-first":
                self._may_overlap.add(section.name)

    def run(self, check: str) -> Outcome:
        outcome = self.simulation.run(getattr(self, check))
        for entry in self.simulation.timeline.entries:
            note(f"{entry.at_ns / SECOND_NS:8.2f}  {entry.text}")
        return outcome

    def live_tasks(self) -> list[Task]:
        return [t for t in self.view.tasks if t.desired_state <= TaskState.RUNNING and not t.is_terminal]

    def check_slots(self) -> None:
        if self.simulation.leader.is_busy:
            return  # nobody leads, or the change has not been looked at yet
        wanted: dict[str, set[int]] = defaultdict(set)
        for task in self.live_tasks():
            wanted[task.service_id].add(task.slot)
        for service in self.view.services:
            if service.spec.is_replicated:
                assert len(wanted[service.id]) <= service.spec.replicas, self._told(service)

    def check_overlap(self) -> None:
        self._note_left()
        running: Counter[tuple[str, int]] = Counter()
        for task in self.view.tasks:
            if task.status.state is TaskState.RUNNING and task.node_id not in self._left:
                running[task.service_id, task.slot] += self.simulation.machines.works(task.node_id)
        for service in self.view.services:
            if service.spec.is_replicated and service.name not in self._may_overlap:
                most = max((count for (service_id, _), count in running.items() if service_id == service.id), default=0)
                assert most <= 1, self._told(service)

    def _note_left(self) -> None:
        self._left.update(node.id for node in self.view.nodes if node.spec.availability == "drain")

    def check_surge(self) -> None:
        self._note_left()
        if self.simulation.leader.is_busy:
            return
        for service in self.view.services:
            if service.spec.is_replicated:
                config = service.spec.update_config
                is_ahead = config is not None and config.order == "start-first"
                surge = (config.parallelism or service.spec.replicas) if config is not None and is_ahead else 0
                tasks = [t for t in self.view.tasks.of_service(service.id) if t.desired_state is TaskState.RUNNING]
                running = sum(t.status.state is TaskState.RUNNING and t.node_id not in self._left for t in tasks)
                assert running <= service.spec.replicas + surge, self._told(service)

    def check_nodes(self) -> None:
        of_service: Counter[tuple[str, str]] = Counter()
        cpus: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        for task in self.live_tasks():
            if not task.node_id or task.status.state < TaskState.ASSIGNED:
                continue
            of_service[task.service_id, task.node_id] += 1
            resources = self.view.task_specs.must_get(task.task_spec_id).template.resources
            if resources is not None and resources.reservations is not None:
                cpus[task.node_id] += resources.reservations.nano_cpus
                memory[task.node_id] += resources.reservations.memory_bytes
        for node in self.view.nodes:
            assert cpus[node.id] <= node.description.resources.nano_cpus, f"{node.id} has not enough CPUs"
            assert memory[node.id] <= node.description.resources.memory_bytes, f"{node.id} has not enough memory"
        for (service_id, node_id), count in of_service.items():
            service = self.view.services.get(service_id)
            if service is None:
                continue
            placement = self.view.task_specs.must_get(service.task_spec_id).template.placement
            most = placement.max_replicas if placement is not None else 0
            assert not most or count <= most, f"{count} tasks of {service.name} on {node_id}"

    def check_nothing(self) -> None:
        """Only the end counts."""

    def _told(self, service: Service) -> str:
        tasks = sorted(self.view.tasks.of_service(service.id), key=lambda t: (t.slot, t.created_at_ns))
        lines = [f"{t.slot} {t.id} {t.status.state.name} desired {t.desired_state.name} on {t.node_id}" for t in tasks]
        return f"{service.name} asks for {service.spec.replicas} at {self.simulation.now_ns / SECOND_NS} s\n" + "\n".join(lines)


@anything
@given(scenarios())
def test_never_are_more_slots_wanted_than_asked_for(scenario: words.Scenario) -> None:
    Watched(scenario).run("check_slots")


@anything
@given(scenarios())
def test_unless_updates_start_first_or_nodes_are_drained_no_slot_runs_twice(scenario: words.Scenario) -> None:
    Watched(scenario).run("check_overlap")


@anything
@given(scenarios())
def test_running_tasks_never_exceed_what_is_asked_for_and_the_parallelism_of_an_update_that_starts_first(
    scenario: words.Scenario,
) -> None:
    Watched(scenario).run("check_surge")


@anything
@given(scenarios())
def test_no_node_ever_has_more_than_it_can_take_or_than_max_replicas(scenario: words.Scenario) -> None:
    Watched(scenario).run("check_nodes")


@anything
@given(scenarios())
def test_it_converges_after_the_events_stop(scenario: words.Scenario) -> None:
    watched = Watched(scenario)
    outcome = watched.run("check_nothing")
    pending = [t for t in watched.live_tasks() if t.status.state is TaskState.PENDING]
    if watched.simulation.tally.is_updating and pending:
        return  # an update waits for a task that no node can take, as long as none can
    assert outcome.settled_ns is not None, watched.simulation.tally.services
    for service in watched.view.services:
        if not service.spec.is_replicated:
            continue
        current: dict[int, list[Task]] = defaultdict(list)
        for task in watched.view.tasks.of_service(service.id):
            if task.desired_state <= TaskState.RUNNING:
                current[task.slot].append(task)
        ended = {t.slot for t in watched.view.tasks.of_service(service.id) if t.desired_state is TaskState.SHUTDOWN} - set(current)
        assert len(current) + len(ended) == service.spec.replicas, watched._told(service)
        for tasks in current.values():
            assert len(tasks) == 1, watched._told(service)
            assert tasks[0].status.state is TaskState.RUNNING or tasks[0].status.error, watched._told(service)


@anything
@given(scenarios())
def test_in_the_end_no_loop_has_anything_to_decide(scenario: words.Scenario) -> None:
    watched = Watched(scenario)
    if watched.run("check_nothing").settled_ns is None:
        return
    simulation = watched.simulation
    for loop in orchestration_loops(cast(Store, simulation.head), simulation.clock):
        decisions = loop.decide(watched.view, simulation.clock.now_ns(), list(loop.all_keys(watched.view)), 1000)
        assert decisions.is_empty, f"{type(loop).__name__}: {decisions}"


@anything
@given(scenarios())
def test_one_seed_gives_one_result(scenario: words.Scenario) -> None:
    one, other = Simulation(scenario), Simulation(scenario)
    assert one.run() == other.run()
    assert list(one.head.view.tasks) == list(other.head.view.tasks)
