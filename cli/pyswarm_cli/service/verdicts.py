"""What the scheduler says of nodes, as `task explain` and `service create --dry-run` show it. Pure: looks at the API's JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = {"NODE": "Node", "SUITABLE": "Suitable", "TASKS": "Tasks", "OF SERVICE": "OfService", "WHY NOT": "WhyNot"}
LONGEST_LIST = 40
"""So many nodes are listed one by one; of more, the rest is counted by what refuses them."""


def node_rows(nodes: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return a row per node, in the order in which they came."""
    return [
        {
            "Node": node["Hostname"] or node["NodeID"],
            "Suitable": f"yes, {ordinal(node['Rank'])} choice" if node["IsSuitable"] else "no",
            "Tasks": str(node["TaskCount"]),
            "OfService": str(node["ServiceTaskCount"]),
            "WhyNot": why_not(node),
        }
        for node in nodes
    ]


def why_not(node: Mapping[str, Any]) -> str:
    """Return what the filters that refuse a node say; of a suitable one, what makes it the last choice."""
    refused = [f"{verdict['Filter']}: {verdict['Detail']}" for verdict in node["Filters"] if not verdict["Passes"]]
    failures = node["RecentFailures"]
    if failures:
        refused.append(f"{failures} of its tasks failed there lately")
    return "; ".join(refused)


def figure_lines(node: Mapping[str, Any]) -> list[str]:
    """Return a line for each filter that looked at a node: `memory: passes, needs …`."""
    return [
        f"{verdict['Filter']}: {'passes' if verdict['Passes'] else 'REFUSES'}{', ' if verdict['Detail'] else ''}{verdict['Detail']}"
        for verdict in node["Filters"]
    ]


def refusal_lines(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return how many nodes each filter refuses first, for nodes that are too many to be listed."""
    counts: dict[str, int] = {}
    for node in nodes:
        reason = f"refused by {node['RefusedBy']}" if node["RefusedBy"] else "suitable"
        counts[reason] = counts.get(reason, 0) + 1
    return [f"{count} more nodes {reason}" for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def ordinal(number: int) -> str:
    """Return `1st`, `2nd`, `3rd`, `4th`, …"""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
