"""A report as people read it: what became of the whole, of the services and of the nodes, then what happened when."""

from collections.abc import Sequence

from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.simulator.report import GroupReport, Range, Report, ServiceReport
from pyswarm_manager.simulator.timeline import format_rounded

MOST_SERVICES = 50
MOST_LINES = 100
REASON_WIDTH = 100


def print_report(report: Report) -> str:
    """Return the text. Of many services those that lack something come first; what is left out is counted."""
    parts = [_summary(report), _services(report.services), _nodes(report.nodes), _timeline(report)]
    return "\n\n".join(part for part in parts if part)


def _summary(report: Report) -> str:
    tasks = f"{report.tasks_running:,} tasks run, {report.tasks_pending:,} are pending."
    if report.settled_at_s is None:
        return f"Not settled at the end, after {_time(report.virtual_time_s)} of virtual time. {tasks}"
    return f"Settled at {_time(report.settled_at_s)} of virtual time. {tasks}"


def _services(services: Sequence[ServiceReport]) -> str:
    ordered = sorted(services, key=lambda s: (s.running >= s.asked and not s.pending, s.tasks_failed == 0))
    rows = [("SERVICE", "MODE", "RUNNING", "PENDING", "COMPLETE AT", "FEWEST", "MOST", "SHORT FOR", "FAILED", "PER NODE", "UPDATE")]
    for one in ordered[:MOST_SERVICES]:
        running = f"{one.running}/{one.asked}" if not one.mode.endswith("job") else f"{one.states.get('complete', 0)} complete"
        rows.append(
            (
                one.name,
                one.mode,
                running,
                str(one.pending),
                "-" if one.complete_after_s is None else _time(one.complete_after_s),
                "-" if one.fewest_running is None or one.fewest_at_s is None else _fewest(one),
                str(one.most_running),
                _time(one.short_s),
                str(one.tasks_failed),
                _range(one.tasks_per_used_node) + f" on {one.nodes_used}",
                one.update_state or "-",
            )
        )
    lines = [_table(rows)]
    if len(services) > MOST_SERVICES:
        lines.append(f"… and {len(services) - MOST_SERVICES} services more (all with --format json)")
    for one in ordered[:MOST_SERVICES]:
        lines += [f"{one.name}: {r.tasks} pending: {_shortened(r.reason)}" for r in one.pending_reasons[:3]]
        lines += [f"{one.name}: by {label}: {_counts(values)}" for label, values in one.spread.items()]
    return "\n".join(lines)


def _nodes(groups: Sequence[GroupReport]) -> str:
    rows = [("NODES", "COUNT", "STATES", "TASKS (min/median/max)", "CPUS RESERVED", "MEMORY RESERVED")]
    rows += [
        (
            g.name,
            str(g.nodes),
            _counts(g.states) or "-",
            _range(g.tasks),
            _percent(g.cpus),
            _percent(g.memory),
        )
        for g in groups
    ]
    return _table(rows)


def _timeline(report: Report) -> str:
    lines = [f"{_time(at_s):>10}  {_shortened(text)}" for at_s, text in report.timeline[:MOST_LINES]]
    left_out = len(report.timeline) - len(lines) + report.timeline_left_out
    if left_out > 0:
        lines.append(f"… and {left_out} lines more" + (" (with --format json)" if not report.timeline_left_out else ""))
    return "\n".join(["TIMELINE", *lines]) if lines else ""


def _fewest(one: ServiceReport) -> str:
    at = f" at {_time(one.fewest_at_s)}" if one.fewest_at_s is not None and one.short_s else ""
    return f"{one.fewest_running}{at}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _range(found: Range | None) -> str:
    return "-" if found is None else f"{found.minimum:g}/{found.median:g}/{found.maximum:g}"


def _percent(found: Range | None) -> str:
    return "-" if found is None else f"{found.minimum:.0%}/{found.median:.0%}/{found.maximum:.0%}"


def _counts(values: dict[str, int]) -> str:
    shown = list(values.items())[:8]
    text = ", ".join(f"{name or '(none)'} {count}" for name, count in shown)
    return text + (f", … {len(values) - len(shown)} more" if len(values) > len(shown) else "")


def _shortened(text: str) -> str:
    return text if len(text) <= REASON_WIDTH else text[: REASON_WIDTH - 1] + "…"


def _time(seconds: float) -> str:
    return format_rounded(round(seconds * SECOND_NS))
