"""The simulator as its users meet it: what FILE may say, what it answers about capacity and failures, and how it is called."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from pyswarm_cli.main import pyswarm
from pyswarm_common.errors import InvalidArgument
from pyswarm_manager.decisions import DEFAULT_LIMIT
from pyswarm_manager.simulator.printing import print_report
from pyswarm_manager.simulator.report import Report, ServiceReport, make_report
from pyswarm_manager.simulator.scenario_file import read_scenario
from pyswarm_manager.simulator.simulation import Simulation, operations_per_decision

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "simulation.toml"
SMALL = """\
[simulation]
seed = 3

[[nodes]]
name = "n"
count = 4
cpus = 4
memory = "4g"
labels = { zone = ["a", "b"] }

[[services]]
name = "web"
replicas = 6
restart_policy = { delay = "5s" }
[services.behaviour]
start_time = "1s..2s"

[[services]]
name = "db"

[[events]]
at = "10s"
do = "scale"
service = "web"
replicas = 5
"""


def report_of(text: str, seed: int | None = None) -> Report:
    simulation = Simulation(read_scenario(text), seed)
    return make_report(simulation, simulation.run())


def service(report: Report, name: str) -> ServiceReport:
    return next(one for one in report.services if one.name == name)


def test_a_small_cluster_runs_what_is_asked_for() -> None:
    report = report_of(SMALL)
    assert report.settled
    assert (service(report, "web").running, service(report, "db").running, report.tasks_pending) == (5, 1, 0)
    assert report.nodes[0].states == {"ready": 4}
    assert report.timeline[-1][1].startswith("settled, 0.")


def test_tasks_that_do_not_fit_say_why_and_nodes_how_full_they_are() -> None:
    report = report_of(
        SMALL.replace("replicas = 6", 'replicas = 20\nreservations = { cpus = 1, memory = "512m" }').split("[[events]]")[0]
    )
    web = service(report, "web")
    assert (web.running, web.pending) == (16, 4)
    assert [(r.reason, r.tasks) for r in web.pending_reasons] == [("no suitable node (insufficient CPUs on 4 nodes)", 4)]
    assert web.complete_after_s is None
    cpus, memory = report.nodes[0].cpus, report.nodes[0].memory
    assert cpus is not None
    assert memory is not None
    assert (cpus.minimum, cpus.median, cpus.maximum) == (1, 1, 1)
    assert memory.median == 0.5
    assert "web: 4 pending: no suitable node (insufficient CPUs on 4 nodes)" in print_report(report)


def test_preferences_spread_and_the_spread_is_shown() -> None:
    report = report_of(SMALL.replace("replicas = 6", 'replicas = 6\npreferences = ["node.labels.zone"]').split("[[events]]")[0])
    assert service(report, "web").spread == {"node.labels.zone": {"a": 3, "b": 3}}


def test_a_failed_node_is_noticed_after_its_grace_and_the_loss_is_counted_from_the_failure_on() -> None:
    report = report_of(SMALL.split("[[events]]")[0] + '[[events]]\nat = "20s"\ndo = "fail"\nnodes = "n-1"\n')
    web = service(report, "web")
    assert web.fewest_at_s == 20.0
    assert web.fewest_running is not None
    assert web.fewest_running < 6
    assert web.running == 6
    assert 3 + 5 + 1 <= web.short_s <= 3 + 5 + 3  # silence of 3 s, restart delay of 5 s, start
    assert report.nodes[0].states == {"down": 1, "ready": 3}


def test_a_failing_update_is_told_with_its_end() -> None:
    update = 'at = "20s"\ndo = "update"\nservice = "web"\nimage = "v2"\nbehaviour = { failure_probability = 1 }\n'
    config = 'restart_policy = { delay = "0s" }\nupdate_config = { failure_action = "rollback" }'
    report = report_of(SMALL.replace('restart_policy = { delay = "5s" }', config).split("[[events]]")[0] + "[[events]]\n" + update)
    web = service(report, "web")
    assert web.update_state == "rollback_completed"
    assert web.tasks_failed >= 1
    assert web.running == 6
    assert any("rollback_completed" in text for _, text in report.timeline)


def test_jobs_complete() -> None:
    job = '[[services]]\nname = "sum"\nmode = "replicated-job"\nreplicas = 9\nmax_concurrent = 2\nbehaviour = { run_time = "5s" }\n'
    report = report_of(SMALL.split("[[services]]")[0] + job)
    assert report.settled
    assert service(report, "sum").states["complete"] == 9
    assert service(report, "sum").most_running == 2
    assert report.settled_at_s is not None
    assert report.settled_at_s > 25


def test_a_service_that_fails_for_ever_does_not_settle() -> None:
    failing = '[[services]]\nname = "web"\nbehaviour = { failure_probability = 1 }\n'
    report = report_of('[simulation]\nduration = "2m"\n[[nodes]]\nname = "n"\n' + failing)
    assert not report.settled
    assert 10 < service(report, "web").tasks_failed < 30
    assert print_report(report).startswith("Not settled at the end, after ")


def test_another_seed_gives_another_run_and_the_same_seed_the_same() -> None:
    text = SMALL.replace("[[nodes]]", "[agents]\nfailure_probability = 0.3\n[[nodes]]", 1)
    assert report_of(text, 1) == report_of(text, 1)
    assert report_of(text, 1) != report_of(text, 2)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("replicas = 6", "replcas = 6", "line 13: services[1].replcas: there is no such key; allowed are name, count, at, image"),
        ("replicas = 6", 'replicas = "x"', "line 13: services[1].replicas: Expected `int | null`, got `str`"),
        ('"5s"', "5", 'line 14: services[1].restart_policy.delay: 5 must be a text such as "10s" or "1m30s"'),
        ('"1s..2s"', '"2s..1s"', "line 16: services[1].behaviour.start_time: '2s..1s' begins after its end"),
        ('"scale"', '"scal"', "line 23: events[1].do: 'scal' is not known; allowed are fail, cut, return, join"),
        ('at = "10s"\n', "", "line 21: events[1].at: must be given"),
        ('service = "web"', 'service = "w"', "line 24: events[1].service: there is no service 'w': web, db"),
        (
            'name = "db"',
            'name = "db"\nmode = "all"',
            "line 20: services[2].mode: Invalid enum value 'all'; allowed are replicated, ",
        ),
        ('name = "db"', 'name = "web"', "line 19: services[2].name: 'web' is the name of two sections"),
        ("[simulation]", "[simulatin]", "line 1: simulatin: there is no such section; there are simulation, agents"),
        ("[[nodes]]", "[nodes]", "line 4: nodes: must be a list of tables: write [[nodes]]"),
        ('"4g"', '"4q"', "line 8: nodes[1].memory: '4q' is not a size such as 64m, 512m or 2g"),
        ("seed = 3", "seed = ", "this is not TOML: Invalid value (at line 2, column 8)"),
        ("replicas = 6", 'replicas = 6\nconstraints = ["x"]', "service web: invalid placement constraint 'x'"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_place_and_what_is_allowed(before: str, after: str, message: str) -> None:
    assert before in SMALL
    with pytest.raises(InvalidArgument) as caught:
        Simulation(read_scenario(SMALL.replace(before, after, 1), "f.toml"))
    assert message in caught.value.message


def test_decisions_grow_with_very_many_tasks_only() -> None:
    assert [operations_per_decision(count) for count in (0, 8_000, 1_000_000, 10**9)] == [
        DEFAULT_LIMIT,
        DEFAULT_LIMIT,
        10_000,
        50_000,
    ]


def run_command(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyswarm_manager.simulator", *arguments]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_example_gives_the_same_answer_under_any_hash_seed() -> None:
    runs = [run_command(str(EXAMPLE), "--format", "json", hash_seed=hash_seed) for hash_seed in ("1", "2", "777")]
    assert {run.returncode for run in runs} == {0}, runs[0].stderr
    assert len({run.stdout for run in runs}) == 1
    report = msgspec.json.decode(runs[0].stdout, type=Report)
    assert service(report, "train").pending == 2
    assert "insufficient generic resources" in service(report, "train").pending_reasons[0].reason


def test_the_command_explains_itself_and_what_is_wrong(tmp_path: Path) -> None:
    shown = run_command("--help")
    assert (shown.returncode, "[[services]]" in shown.stdout) == (0, True)
    missing = run_command(str(tmp_path / "none.toml"))
    assert (missing.returncode, "No such file" in missing.stderr) == (1, True)
    assert run_command().returncode == 2
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(SMALL.replace("replicas = 6", "replcas = 6"))
    refused = run_command(str(wrong))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: {wrong} line 13: services[1].replcas: there is no such key")


def test_pyswarm_simulate_passes_arguments_and_exit_code_on() -> None:
    assert "simulate" in CliRunner().invoke(pyswarm, ["--help"]).output
    command = [sys.executable, "-c", "from pyswarm_cli.main import main; main()", "simulate"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout.startswith("usage: pyswarm simulate ")) == (0, True)
    assert subprocess.run([*command, "/nothing.toml"], capture_output=True, check=False).returncode == 1
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
