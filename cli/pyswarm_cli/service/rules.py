"""Parts of a spec that `create` and `update` make from the same options: placement, restarts, updates, our labels. Pure.

Raises click.BadParameter and click.UsageError.
"""

from collections.abc import Mapping
from typing import Any

import click

from pyswarm_common import service_labels

Options = Mapping[str, Any]
"""The options by click's names: `replicas`, `env`, …; None, "" or () when not given."""
_ROLL_MEMBERS = {
    "parallelism": "Parallelism",
    "delay": "Delay",
    "failure_action": "FailureAction",
    "monitor": "Monitor",
    "max_failure_ratio": "MaxFailureRatio",
    "order": "Order",
}
_LABELS = {
    "schedule": service_labels.SCHEDULE,
    "schedule_timezone": service_labels.SCHEDULE_TIME_ZONE,
    "schedule_overlap": service_labels.SCHEDULE_OVERLAP,
    "schedule_history": service_labels.SCHEDULE_HISTORY,
    "placement_strategy": service_labels.STRATEGY,
    "balance": service_labels.BALANCE,
}
SCHEDULE_LABELS = tuple(label for option, label in _LABELS.items() if option.startswith("schedule"))


def parse_preference(text: str) -> dict[str, Any]:
    """Return the placement preference in `spread=node.labels.zone`."""
    strategy, equals, descriptor = text.partition("=")
    if strategy != "spread" or not equals or not descriptor:
        raise click.BadParameter(f"--placement-pref {text!r} is not spread=LABEL, such as spread=node.labels.zone")
    return {"Spread": {"SpreadDescriptor": descriptor}}


def parse_generic_resource(text: str) -> dict[str, Any]:
    """Return the reservation in `gpu=2`."""
    kind, equals, number = text.partition("=")
    if not kind or not equals or not number.isascii() or not number.isdigit() or int(number) == 0:
        raise click.BadParameter(f"--generic-resource {text!r} is not KIND=NUMBER, such as gpu=2")
    return {"DiscreteResourceSpec": {"Kind": kind, "Value": int(number)}}


def generic_resource_kind(resource: Mapping[str, Any]) -> str:
    """Return the kind of a reserved generic resource."""
    inner = resource.get("DiscreteResourceSpec") or resource.get("NamedResourceSpec") or {}
    return str(inner.get("Kind", ""))


def generic_resource_text(resource: Mapping[str, Any]) -> str:
    """Return a generic resource as people write it: `gpu=2`."""
    inner = resource.get("DiscreteResourceSpec") or resource.get("NamedResourceSpec") or {}
    return f"{generic_resource_kind(resource)}={inner.get('Value', '')}"


def roll_config(options: Options, kind: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of an `update` or `rollback`: what was there with what is asked for; {} for nothing at all.

    A configuration without parallelism would mean all at once, so a new one says docker's default.
    """
    asked = {member: options[f"{kind}_{name}"] for name, member in _ROLL_MEMBERS.items() if options[f"{kind}_{name}"] is not None}
    if not asked:
        return dict(before)
    return {**(before or {"Parallelism": 1}), **asked}


def restart_policy(options: Options) -> dict[str, Any]:
    """Return what was said of restarts."""
    return given(
        {"Condition": options["restart_condition"]},
        Delay=options["restart_delay"],
        MaxAttempts=options["restart_max_attempts"],
        Window=options["restart_window"],
    )


def rule_labels(options: Options) -> dict[str, str]:
    """Return the labels by which a service asks for what docker's API has no fields for."""
    labels = {label: str(options[option]) for option, label in _LABELS.items() if options[option] not in (None, "")}
    if options["rebalance"]:
        labels[service_labels.REBALANCE] = "true"
    if options.get("depends_on"):
        labels[service_labels.DEPENDS_ON] = ",".join(dict.fromkeys(options["depends_on"]))
    return labels


def given(members: Mapping[str, Any], **zero_counts: int | None) -> dict[str, Any]:
    """Return the members that are not empty, and those of `zero_counts`, of which 0 means something, that are not None."""
    found = {name: value for name, value in members.items() if value}
    return {**found, **{name: value for name, value in zero_counts.items() if value is not None}}
