"""A simulation: the scenario's operator, the leader with its loops, and the machines, on one head and one virtual clock.

At each moment everything that is due happens, in a fixed order, until nothing is; then time moves on to whatever comes next. One
seed gives one result: random numbers are drawn in that order, and ids come from the same seed.
"""

import random
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec

from pyswarm_common.amounts import format_duration_ns
from pyswarm_common.ids import ids_drawn_from
from pyswarm_common.objects import Service
from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.decisions import DEFAULT_LIMIT
from pyswarm_manager.orchestration import orchestration_loops
from pyswarm_manager.simulator import scenario as words
from pyswarm_manager.simulator.calendar import Calendar
from pyswarm_manager.simulator.head import Head, SimulatedClock
from pyswarm_manager.simulator.leader import Leader, LoopMaker
from pyswarm_manager.simulator.machines import Condition, Machines
from pyswarm_manager.simulator.operator import Operator
from pyswarm_manager.simulator.scenario import Scenario
from pyswarm_manager.simulator.specs import updated_section
from pyswarm_manager.simulator.tally import Tally
from pyswarm_manager.simulator.timeline import Timeline

START_NS = 1_700_000_000 * SECOND_NS
REST_NS = 600 * SECOND_NS
"""Nothing is under way and nothing changed for so long: a cluster at rest, whose loops only look again now and then."""
DECISIONS_OF_A_RUN = 100
MOST_OPERATIONS = 50_000


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Times are virtual nanoseconds since the start."""

    end_ns: int
    settled_ns: int | None
    """When everything had come to its place for the last time; None when it had not at the end."""


class Simulation:
    """One run of a scenario. Reads and writes nothing but what it is given."""

    def __init__(self, scenario: Scenario, seed: int | None = None, make_loops: LoopMaker = orchestration_loops) -> None:
        settings = scenario.simulation
        self.seed = settings.seed if seed is None else seed
        self.scenario = scenario
        self.clock = SimulatedClock(START_NS)
        self.head = Head(self.clock)
        self._random = random.Random(self.seed)
        with self._ids():
            self.operator = Operator(self.head, scenario)
            self.machines = Machines(self.head, self.clock, settings.grid, self._random.random, self.operator.behaviour_of)
            self.tally = Tally(self.head, self.clock, self.machines.works)
            self.timeline = Timeline()
            self.machines.before_change = self.tally.forget_node
            self.machines.after_change = self.tally.remember_node
            self.tally.on_update_status = self._note_update
            self.operator.found()
            limit = settings.operations_per_decision or operations_per_decision(scenario.task_count)
            self.leader = Leader(self.head, self.clock, make_loops, settings.commit_time, limit)
        self._events: Calendar[Callable[[], None]] = Calendar(1)
        self._settled_ns: int | None = None
        self._last_event_ns = 0
        for section in scenario.services:
            self._plan(section.at, lambda section=section: self.operator.create(section))  # type: ignore[misc]
        for event in scenario.events:
            self._plan(event.at, lambda event=event: self._carry_out(event))  # type: ignore[misc]

    @property
    def now_ns(self) -> int:
        """Virtual nanoseconds since the start."""
        return self.clock.now_ns() - START_NS

    def run(self, on_moment: Callable[[], None] = lambda: None) -> Outcome:
        """Run to the end; `on_moment` is called after each moment at which something happened."""
        duration_ns = int(self.scenario.simulation.duration)
        with self._ids():
            while True:
                self._live_through_moment()
                self._note_settled()
                on_moment()
                next_ns = self._next_ns()
                if next_ns is None or next_ns - START_NS > duration_ns:
                    break
                self.clock.move_to(next_ns)
        for tally in self.tally.services.values():
            tally.finish(self.now_ns)
        return Outcome(self.now_ns, self._settled_ns)

    def _ids(self) -> AbstractContextManager[None]:
        return ids_drawn_from(self._random.getrandbits)

    def _live_through_moment(self) -> None:
        now_ns = self.clock.now_ns()
        while True:
            if events := self._events.take(now_ns):
                self._settled_ns, self._last_event_ns = None, self.now_ns
                for event in events:
                    event()
            elif not self.machines.work() and not self.leader.work():
                return

    def _next_ns(self) -> int | None:
        """The next moment; None when the cluster is at rest."""
        acts = [t for t in (self._events.next_ns, self.machines.next_ns) if t is not None]
        looks = self.leader.next_ns()
        if not acts and not self.leader.is_busy:
            quiet_since_ns = START_NS + self.tally.last_change_ns
            if looks is None or looks - quiet_since_ns > REST_NS:
                return None
        return min(acts if looks is None else [*acts, looks], default=None)

    def _note_settled(self) -> None:
        is_settled = not (self.tally.moving or self.leader.is_busy or self.machines.has_unnoticed or self.tally.is_updating)
        if not is_settled:
            self._settled_ns = None
        elif self._settled_ns is None:
            self._settled_ns = max(self.tally.last_change_ns, self._last_event_ns)
            self.timeline.settled(self._settled_ns, self.head.view)

    def _plan(self, at_ns: int, event: Callable[[], None]) -> None:
        self._events.add(START_NS + at_ns, event)

    def _note_update(self, service: Service) -> None:
        status = service.update_status
        if status is not None:
            self.timeline.add(self.now_ns, f"{service.name}: {status.state}: {status.message}")

    def _carry_out(self, event: words.Event) -> None:
        if isinstance(event, words.NodeEvent):
            self._do_to_nodes(event)
        elif isinstance(event, words.ServiceEvent):
            self._do_to_service(event)
        elif isinstance(event, words.ChangeLeader):
            self.timeline.event(self.now_ns, f"the leader fails; another manager leads after {format_duration_ns(event.after)}")
            self.leader.fall(event.after)

    def _do_to_nodes(self, event: words.NodeEvent) -> None:
        if isinstance(event, words.JoinNodes):
            joined = self.operator.join(event.nodes, 1 if event.count is None else event.count)
            self.timeline.event(self.now_ns, f"{_count(joined)} of {event.nodes} joined")
            return
        wants_working = not isinstance(event, words.ReturnNodes)
        fitting = [n for n in self.operator.nodes_named(event.nodes) if self.machines.works(n) is wants_working]
        nodes = fitting if event.count is None else fitting[: event.count]
        what = self._change_nodes(event, nodes)
        self.timeline.event(self.now_ns, f"{_count(nodes)} of {event.nodes} {what}")

    def _change_nodes(self, event: words.NodeEvent, nodes: list[str]) -> str:
        """Do it; returns how it is told."""
        match event:
            case words.FailNodes():
                self.machines.lose(nodes, Condition.CRASHED)
                return "failed"
            case words.CutNodes():
                self.machines.lose(nodes, Condition.CUT)
                return "cut off"
            case words.ReturnNodes():
                self.machines.restore(nodes)
                return "came back"
            case words.RemoveNodes():
                self.machines.lose(nodes, Condition.CRASHED)
                self.operator.remove_nodes(nodes)
                return "removed"
            case words.SetAvailability():
                self.operator.set_availability(nodes, event.availability)
                return f"set to {event.availability}"
            case words.LabelNodes():
                self.operator.label(nodes, event.labels)
                return "labelled"
        raise AssertionError(f"{event} is not known")

    def _do_to_service(self, event: words.ServiceEvent) -> None:
        refused: Iterable[str]
        match event:
            case words.ScaleService():
                what = f"scaled to {event.replicas}"
                refused = self.operator.edit(event.service, lambda s: _replaced(s, replicas=event.replicas))
            case words.UpdateService():
                what = "updated"
                refused = self.operator.edit(event.service, lambda s: updated_section(s, event))
            case words.RollBackService():
                what = "rolled back"
                refused = self.operator.roll_back(event.service)
            case _:
                what = "removed"
                refused = self.operator.remove(event.service)
        self.timeline.event(self.now_ns, f"{event.service} {what}")
        for message in refused:
            self.timeline.add(self.now_ns, f"refused: {message}")


def operations_per_decision(task_count: int) -> int:
    """Return how much one decision may do: what managers use, but so much that a run gets by with some 100 decisions per loop."""
    return min(max(DEFAULT_LIMIT, task_count // DECISIONS_OF_A_RUN), MOST_OPERATIONS)


def _replaced(section: words.ServiceSection, replicas: int) -> words.ServiceSection:
    return msgspec.structs.replace(section, replicas=replicas)


def _count(nodes: list[str]) -> str:
    return "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
