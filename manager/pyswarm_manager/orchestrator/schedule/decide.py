"""When a scheduled job's next run begins, and what became of those before. Pure.

A run is an iteration of the job: this loop raises the iteration, the job orchestrator does the rest. All that it goes by is in the
service (`Service.schedule`), so a change of leader matters at no moment.

* The next due time is fixed beforehand. Once the clock has reached it one run begins, however many due times have passed meanwhile
  (nobody led, or the clock was set forward): missed ones are not made up for.
* While the run before is not over (or another execution of the job), the overlap policy decides: `skip` this run, `queue` it, or
  `replace` the present one.
* A clock that is set back by up to three hours starts nothing twice: the job waits for the due time that it waited for before. Set
  back further, it was wrong before: the schedule goes on from the present time, leaving out due times that runs are remembered for.
  (Three hours is the bound of Debian's cron.) So a clock that jumps costs at most three hours of silence, and a jump starts one run
  at most. The time is looked at every minute, as alarms do not hear of it when the clock is set.
* A job that wants no task (scaled to 0, or without a node that it may run on) has its runs skipped.
* An execution that a user started, by a forced update, is listed among the runs.
"""

from collections.abc import Iterable

import msgspec

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import ScheduledRun, ScheduleStatus, Service
from pyswarm_common.service_labels import SCHEDULE
from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.decisions import DEFAULT_LIMIT, Decisions, Draft
from pyswarm_manager.orchestrator.job_progress import has_begun, job_progress
from pyswarm_manager.orchestrator.schedule.timetable import Timetable, timetable_of
from pyswarm_manager.store.tables import View

SET_BACK_TOLERANCE_NS = 3 * 3600 * SECOND_NS
LOOK_EVERY_NS = 60 * SECOND_NS
QUEUE_LIMIT = 10
"""So many runs are queued at most; further ones are skipped."""
_NO_STATUS = ScheduleStatus()


def decide(view: View, now_ns: int, limit: int | None = DEFAULT_LIMIT, *, service_ids: Iterable[str] | None = None) -> Decisions:
    """Return what is to be written about the schedules of these services (None: all). The decisions' keys are service ids."""
    draft = Draft(view, limit)
    ids = list(service_ids if service_ids is not None else all_scheduled_ids(view))
    for position, service_id in enumerate(ids):
        if not draft.has_room():
            draft.postpone(ids[position:])
            break
        service = view.services.get(service_id)
        if service is None:
            continue
        if not service.spec.is_job or SCHEDULE not in (service.spec.labels or {}):
            draft.update(msgspec.structs.replace(service, schedule=None))
            continue
        timetable = _timetable(service)
        if timetable is None:
            continue
        changed = _Look(view, service, timetable, now_ns).run()
        draft.update(changed)
        next_due_ns = changed.schedule.next_due_ns if changed.schedule else 0
        draft.wake(service_id, min(next_due_ns or now_ns + LOOK_EVERY_NS, now_ns + LOOK_EVERY_NS))
    return draft.finish()


def is_scheduled(service: Service) -> bool:
    """Whether this loop has to do with the service."""
    return service.schedule is not None or SCHEDULE in (service.spec.labels or {})


def all_scheduled_ids(view: View) -> list[str]:
    """Return the ids of all services that this loop has to do with."""
    return sorted(service.id for service in view.services if is_scheduled(service))


def _timetable(service: Service) -> Timetable | None:
    try:
        return timetable_of(service.spec.labels)
    except InvalidArgument:  # it was valid once: such as a time zone that this manager does not know
        return None


class _Look:
    """One look at one scheduled job."""

    def __init__(self, view: View, service: Service, timetable: Timetable, now_ns: int) -> None:
        self._view = view
        self._service = service
        self._timetable = timetable
        self._now_ns = now_ns
        status = service.schedule or _NO_STATUS
        self._next_due_ns = status.next_due_ns
        self._runs = list(status.runs)
        self._is_busy = False

    def run(self) -> Service:
        """Return the service as it is to be."""
        self._settle()
        self._keep_time()
        self._serve_queue()
        runs = _remembered(self._runs, self._timetable.history)
        queued = sum(run.outcome == "queued" for run in runs)
        status = ScheduleStatus(next_due_ns=self._next_due_ns, queued=queued, runs=runs)
        return msgspec.structs.replace(self._service, schedule=status)

    def _settle(self) -> None:
        """Note what became of the present run, and an execution that somebody else began."""
        iteration = self._service.job_iteration
        progress = job_progress(self._view, self._service) if has_begun(self._service) else None
        self._is_busy = progress is not None and not progress.is_finished
        for position, run in enumerate(self._runs):
            if run.outcome != "running":
                continue
            if run.iteration != iteration:
                self._runs[position] = self._ended(run, "replaced")
            elif progress is not None and progress.is_finished:
                self._runs[position] = self._ended(run, "failed" if progress.failed else "completed")
        if self._is_busy and iteration > max((run.iteration for run in self._runs), default=-1):
            self._runs.append(ScheduledRun(due_at_ns=self._service.job_started_at_ns, iteration=iteration))

    def _keep_time(self) -> None:
        due_ns = self._next_due_ns
        if due_ns and due_ns <= self._now_ns:
            self._fall_due(due_ns)
            self._next_due_ns = self._first_due_ns()
            return
        first_ns = self._first_due_ns()
        if not due_ns or due_ns - first_ns > SET_BACK_TOLERANCE_NS:
            self._next_due_ns = first_ns

    def _first_due_ns(self) -> int:
        """The first due time from now on that no run is remembered for."""
        remembered = {run.due_at_ns for run in self._runs}
        due_ns = self._timetable.next_due_ns(self._now_ns)
        while due_ns in remembered:
            due_ns = self._timetable.next_due_ns(due_ns)
        return due_ns

    def _fall_due(self, due_ns: int) -> None:
        run = ScheduledRun(due_at_ns=due_ns, outcome="queued")
        match self._timetable.overlap:
            case "replace":
                has_room = True
            case "queue":
                has_room = sum(r.outcome == "queued" for r in self._runs) < QUEUE_LIMIT
            case _:
                has_room = not self._is_busy
        self._runs.append(run if has_room else self._ended(run, "skipped"))

    def _serve_queue(self) -> None:
        """Begin the run whose turn it is. Only the policy `queue` lets others wait."""
        waiting = [position for position, run in enumerate(self._runs) if run.outcome == "queued"]
        if self._timetable.overlap != "queue":
            for position in waiting[:-1]:
                self._runs[position] = self._ended(self._runs[position], "skipped")
            waiting = waiting[-1:]
        if not waiting or (self._is_busy and self._timetable.overlap != "replace"):
            return
        begun = self._next_iteration()
        if not job_progress(self._view, begun).wanted:
            for position in waiting:
                self._runs[position] = self._ended(self._runs[position], "skipped")
            return
        for position, run in enumerate(self._runs):
            if run.outcome == "running":
                self._runs[position] = self._ended(run, "replaced")
        first = waiting[0]
        self._runs[first] = msgspec.structs.replace(self._runs[first], iteration=begun.job_iteration, outcome="running")
        self._service = begun

    def _next_iteration(self) -> Service:
        service = self._service
        iteration = service.job_iteration + 1 if service.job_started_at_ns else service.job_iteration
        return msgspec.structs.replace(service, job_iteration=iteration, job_started_at_ns=self._now_ns)

    def _ended(self, run: ScheduledRun, outcome: str) -> ScheduledRun:
        return msgspec.structs.replace(run, outcome=outcome, finished_at_ns=self._now_ns)


def _remembered(runs: list[ScheduledRun], history: int) -> tuple[ScheduledRun, ...]:
    """The latest runs, in their order, and all that are not over. Skipped ones are counted by themselves: they may be many."""
    over = [run for run in runs if run.outcome not in ("queued", "running")]
    skipped = [run for run in over if run.outcome == "skipped"][-history:]
    carried_out = [run for run in over if run.outcome != "skipped"][-history:]
    return tuple(run for run in runs if run in skipped or run in carried_out or run not in over)
