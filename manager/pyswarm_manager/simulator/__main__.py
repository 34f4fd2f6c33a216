"""`python -m pyswarm_manager.simulator FILE`, which is also `pyswarm simulate FILE`."""

import argparse
import sys
from pathlib import Path

import msgspec

from pyswarm_common.errors import PyswarmError
from pyswarm_manager.simulator.printing import print_report
from pyswarm_manager.simulator.report import make_report
from pyswarm_manager.simulator.scenario_file import read_scenario
from pyswarm_manager.simulator.simulation import Simulation

_DESCRIPTION = """\
Ask a cluster that is not there: run the managers' own decisions on imagined nodes and services, in virtual time.

FILE (TOML) says which nodes there are, which services, what happens when, and how tasks fare:

  [[nodes]]
  name = "worker"
  count = 20
  cpus = 8
  memory = "16g"
  labels = { zone = ["a", "b"] }      # dealt out in turn

  [[services]]
  name = "web"
  replicas = 100
  reservations = { cpus = 0.5, memory = "512m" }
  preferences = ["node.labels.zone"]
  update_config = { parallelism = 5, order = "start-first" }

  [[events]]
  at = "30s"
  do = "fail"                         # also: cut, return, join, leave, availability, label,
  nodes = "worker"                    #       scale, update, rollback, remove, change-leader
  count = 3
"""
_EPILOG = """\
The answer tells, per service, how many tasks run and why others are pending, the fewest that ran at any time and for how long
too few did; how full the nodes are; and what happened when. One seed gives one answer.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="pyswarm simulate", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help="the scenario; - reads standard input")
    parser.add_argument("--seed", type=int, metavar="N", help="of the random numbers [default: as FILE says, or 0]")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="[default: table]")
    return parser


def main() -> int:
    """Run the command; returns the exit code: 0, or 1 when FILE cannot be used (2 for wrong usage)."""
    arguments = make_parser().parse_args()
    try:
        text = sys.stdin.read() if arguments.file == "-" else Path(arguments.file).read_text()
        simulation = Simulation(read_scenario(text, arguments.file), arguments.seed)
        report = make_report(simulation, simulation.run())
    except PyswarmError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        return 1
    except (OSError, UnicodeDecodeError) as error:
        print(f"Error: {arguments.file}: {error}", file=sys.stderr)
        return 1
    if arguments.format == "json":
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        print(print_report(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
