"""Runs faults against a cluster for as long as asked, round after round, each with a seed of its own; `scripts/soak` calls this.

A round ends with everything healed and checked. The first round that breaks a promise ends the run: its history and all logs are
kept, and the seed that it was started with is printed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from lab_cluster import Cluster, build_images, running_cluster

from faults.harness import FaultRun, Report, run_faults
from faults.plan import MIXES

DEFAULT_KEEP = Path(tempfile.gettempdir()) / "pyswarm-soak"


def main() -> None:
    """Run until the time is over; ends with code 1 when a promise was broken."""
    arguments = _parse(sys.argv[1:])
    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 1_000_000_000
    names = [f"n{number + 1}" for number in range(arguments.managers)]
    print(f"seed {seed}: {arguments.managers} managers, {arguments.minutes:g} min, faults: {arguments.mix}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with running_cluster(place, build_images(place), hosts=len(names), managers=len(names)) as cluster:
            reports, is_good = _rounds(cluster, names, seed, arguments)
    acknowledged = sum(report.acknowledged for report in reports)
    faults = sum(sum(report.faults.values()) for report in reports)
    lost = sum(report.lost for report in reports)
    print(f"\n{len(reports)} rounds: {acknowledged} acknowledged writes, {faults} faults, lost: {lost}", flush=True)
    sys.exit(0 if is_good else 1)


def _rounds(cluster: Cluster, names: list[str], seed: int, arguments: argparse.Namespace) -> tuple[list[Report], bool]:
    FaultRun(cluster, names, seed).start_anchor()
    until_s = time.monotonic() + arguments.minutes * 60
    reports: list[Report] = []
    while (remaining_s := until_s - time.monotonic()) > 0:
        seconds = min(arguments.round_seconds, max(remaining_s, 20.0))
        run = run_faults(cluster, names, seed=seed + len(reports), seconds=seconds, mix=MIXES[arguments.mix])
        report = run.finish()
        reports.append(report)
        print(f"\n{report}", flush=True)
        if arguments.keep_all or not report.is_good:
            print(f"the history and the logs are kept: {run.save(arguments.keep)}", flush=True)
        if not report.is_good:
            return reports, False
    return reports, True


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Break a cluster in random ways for as long as you like, and check that nothing acknowledged is lost. As root.",
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--managers", type=int, default=3, choices=(1, 3, 5, 7), help="how many managers (default: 3)")
    parser.add_argument("--seed", type=int, help="repeat the faults of an earlier run (default: a new seed)")
    parser.add_argument("--mix", choices=sorted(MIXES), default="all", help="which faults (default: all)")
    parser.add_argument("--round-seconds", type=float, default=120.0, help="heal and check this often (default: 120)")
    parser.add_argument("--keep", type=Path, default=DEFAULT_KEEP, help=f"where a failed round is kept (default: {DEFAULT_KEEP})")
    parser.add_argument("--keep-all", action="store_true", help="keep every round, not only a failed one")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
