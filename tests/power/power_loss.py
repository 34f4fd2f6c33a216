"""Takes the power from the only manager of a cluster, again and again, and checks after each boot that nothing promised is missing.

    scripts/power-loss --rounds 20

A machine under QEMU runs pyswarmd on a disk with a volatile cache. Clients outside write services through the Engine API and
note each acknowledgement. After a random number of disk writes the disk stops answering, the machine is killed, and what was not
flushed is lost or scattered. The machine is booted again on what is left: pyswarmd must come up by itself with every acknowledged
write. Some cuts come during `swarm init`, some while the machine comes up.
"""

import argparse
import http.client
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from machine_image import REPOSITORY, MachineImage, MissingPackage, build_image, make_file_system
from power_disk import CutReport, Disk, DiskServer, Fate
from power_images import ImageLoader, ImagePromises
from power_ledger import Ledger
from power_machine import Machine, MachineFailed
from power_workload import Engine, Refused, Workload

DISK_BYTES = 512 << 20
UP_TIMEOUT_S = 240.0
CUT_TIMEOUT_S = 60.0
ADDRESS = "10.0.2.15"
CACHE = REPOSITORY / ".cache" / "power"
_POLL_S = 0.1
_T = TypeVar("_T")


class PromiseBroken(Exception):
    """Something that was acknowledged is not there, or not as it was."""


class PowerGone(Exception):
    """The power was cut while something was waited for."""


@dataclass(frozen=True)
class Plan:
    """When the power goes, and what becomes of the cache. `changes`: how many disk writes and flushes later."""

    moment: str
    fate: Fate
    acknowledged: int
    changes: int
    lies: bool = False


@dataclass
class Tally:
    """What a run has done so far."""

    cuts: Counter[str] = field(default_factory=Counter)
    fates: Counter[Fate] = field(default_factory=Counter)
    up_s: list[float] = field(default_factory=list)
    unflushed: int = 0
    repairs: int = 0
    """Boots at which e2fsck had more to do than to replay the journal."""


class PowerLossRun:
    """A disk's life over many power cuts. `folder` holds the disk, the sockets and the console; `say` gets a line per event."""

    def __init__(self, image: MachineImage, folder: Path, seed: int, say: Callable[[str], None]) -> None:
        self.ledger = Ledger()
        self.images = ImagePromises()
        self.tally = Tally()
        self.disk_path = folder / "disk.img"
        self.console_path = folder / "console.txt"
        self._image = image
        self._folder = folder
        self._rng = random.Random(seed)
        self._say = say
        self._identity: dict[str, Any] | None = None
        """What the cluster is, once `swarm init` was acknowledged or its outcome seen."""

    def plan(self, moment: str) -> Plan:
        """Draw a plan: `moment` is "founding", "starting" or "writing"."""
        most_changes = {"founding": 80, "starting": 120, "writing": 25}[moment]
        fate = self._rng.choice([Fate.KEPT, Fate.LOST, Fate.CUT_OFF, Fate.SCATTERED, Fate.SCATTERED])
        return Plan(moment, fate, acknowledged=self._rng.randint(3, 60), changes=self._rng.randint(1, most_changes))

    def round(self, plan: Plan) -> None:
        """Boot, check what was promised, and lose power as planned. Raises PromiseBroken, MachineFailed."""
        if plan.moment == "founding" or not self.disk_path.exists():
            self._insert_new_disk()
        before = self.ledger.acknowledged
        disk = Disk(self.disk_path, ignores_flushes=plan.lies)
        try:
            with DiskServer(disk, self._folder / "disk.sock") as server, self._machine(server) as machine:
                self._run_until_cut(plan, server, machine)
            report = disk.lose_power(plan.fate, self._rng)
        finally:
            disk.close()
        self._note(plan, report, self.ledger.acknowledged - before)
        if not plan.lies:
            self._check_medium()

    def _insert_new_disk(self) -> None:
        if self.disk_path.exists():
            self.check()
        make_file_system(self.disk_path, DISK_BYTES)
        self._identity = None
        self.ledger.forget()
        self.images.forget()

    def check(self) -> None:
        """Boot once more, check what was promised, and switch off. Raises PromiseBroken, MachineFailed."""
        disk = Disk(self.disk_path)
        try:
            with DiskServer(disk, self._folder / "disk.sock") as server, self._machine(server) as machine:
                self._come_up(server, machine)
        finally:
            disk.close()

    def _machine(self, server: DiskServer) -> Machine:
        return Machine(self._image, server.socket_path, self.console_path)

    def _run_until_cut(self, plan: Plan, server: DiskServer, machine: Machine) -> None:
        killer = threading.Thread(target=_switch_off_when_cut, args=(server, machine))
        killer.start()
        clients: list[Workload | ImageLoader] = []
        try:
            if plan.moment == "starting":
                server.cut_after(plan.changes)
            self._come_up(server, machine, plan.changes if plan.moment == "founding" else None)
            workload = Workload(machine.api_port, self.ledger, self._rng)
            clients = [workload, ImageLoader(machine.api_port, self.images, random.Random(self._rng.random()))]
            for client in clients:
                client.start()
            if not workload.wait_acknowledged(plan.acknowledged, UP_TIMEOUT_S) and not server.was_cut.is_set():
                raise MachineFailed(f"it does not take writes: {workload.errors}")
            server.cut_after(plan.changes)
            server.was_cut.wait(CUT_TIMEOUT_S)
        except PowerGone:
            pass
        finally:
            server.cut_now()
            killer.join()
            for client in clients:
                client.join()
        if self.ledger.broken:
            raise PromiseBroken("; ".join(self.ledger.broken))

    def _come_up(self, server: DiskServer, machine: Machine, cut_founding_after: int | None = None) -> None:
        """Return when the manager serves and all that it shows is as promised; with a new disk, found the cluster first."""
        engine = Engine(machine.api_port)

        def wait(what: str, probe: Callable[[], _T | None]) -> _T:
            return _wait(what, probe, server, machine)

        try:
            info = wait("pyswarmd answers", lambda: engine.ask("GET", "/info"))
            is_member = info["Swarm"]["LocalNodeState"] != "inactive"
            if self._identity is not None and not is_member:
                raise PromiseBroken("swarm init was acknowledged, and the node knows of no cluster")
            if not is_member:
                if cut_founding_after is not None:
                    server.cut_after(cut_founding_after)
                wait("swarm init", lambda: _found(engine))
            services = wait("the manager serves", lambda: engine.ask("GET", "/services"))
            broken = self.ledger.check(services)
            identity = wait("the cluster's identity", lambda: _identity(engine))
            broken += self.images.broken_in(wait("images", lambda: engine.ask("GET", "/images/json")))
            if self._identity not in (None, identity):
                broken.append(f"the cluster was {self._identity} and is {identity}")
            if broken:
                raise PromiseBroken("\n".join(broken))
            self._identity = identity
            wait("the node is ready", lambda: _is_ready(engine))
            self.tally.up_s.append(machine.age_s)
            self.tally.repairs += machine.was_repaired
            repaired = "; e2fsck repaired the file system" if machine.was_repaired else ""
            self._say(f"    up in {machine.age_s:.1f} s; {len(services)} services, all as promised{repaired}")
        finally:
            engine.close()

    def _note(self, plan: Plan, report: CutReport, acknowledged: int) -> None:
        self.tally.cuts[plan.moment] += 1
        self.tally.fates[plan.fate] += 1
        self.tally.unflushed += report.unflushed
        self._say(
            f"    power cut while {plan.moment}, after {acknowledged} acknowledged writes; "
            f"of {report.unflushed} unflushed sectors {report.kept} kept ({plan.fate.name.lower()})"
        )

    def _check_medium(self) -> None:
        """Repair a copy as the next boot will: then no error is left, and images are whole. Raises PromiseBroken."""
        copy = self._folder / "copy.img"
        subprocess.run(["cp", "--sparse=always", self.disk_path, copy], check=True)
        program = shutil.which("e2fsck", path="/usr/sbin:/sbin:/usr/bin") or "e2fsck"
        repaired = subprocess.run([program, "-p", copy], capture_output=True, text=True, check=False)
        if repaired.returncode > 1:
            raise PromiseBroken(f"the file system cannot be repaired by itself: {repaired.stdout}{repaired.stderr}")
        found = subprocess.run([program, "-f", "-n", copy], capture_output=True, text=True, check=False)
        if found.returncode != 0:
            raise PromiseBroken(f"the file system has errors: {found.stdout}{found.stderr}")
        if broken := self.images.broken_on(copy):
            raise PromiseBroken("\n".join(broken))
        copy.unlink()


def _switch_off_when_cut(server: DiskServer, machine: Machine) -> None:
    server.was_cut.wait()
    machine.switch_off()


def _found(engine: Engine) -> bool:
    """Found the cluster, unless an attempt whose answer was lost has done so."""
    if engine.ask("GET", "/info")["Swarm"]["LocalNodeState"] == "inactive":
        engine.ask("POST", "/swarm/init", {"AdvertiseAddr": ADDRESS})
    return True


def _wait(what: str, probe: Callable[[], _T | None], server: DiskServer, machine: Machine) -> _T:
    """Return what `probe` gives once it gives something. Raises PowerGone, and MachineFailed after the time-out."""
    last: object = None
    while True:
        try:
            value = probe()
            if value is not None:
                return value
        except (OSError, http.client.HTTPException, Refused) as error:
            last = error
        _check(server, machine)
        if machine.age_s > UP_TIMEOUT_S:
            raise MachineFailed(f"not within {UP_TIMEOUT_S} s: {what}; last seen: {last}")
        time.sleep(_POLL_S)


def _check(server: DiskServer, machine: Machine) -> None:
    try:
        machine.check()
    except MachineFailed:
        if not server.was_cut.is_set():
            raise
    if server.was_cut.is_set():
        raise PowerGone


def _identity(engine: Engine) -> dict[str, Any]:
    swarm = engine.ask("GET", "/swarm")
    node_id = engine.ask("GET", "/info")["Swarm"]["NodeID"]
    return {"cluster": swarm["ID"], "tokens": swarm["JoinTokens"], "node": node_id}


def _is_ready(engine: Engine) -> bool | None:
    nodes = engine.ask("GET", "/nodes")
    is_ready = [node["Status"]["State"] for node in nodes] == ["ready"] and nodes[0]["ManagerStatus"].get("Leader")
    return True if is_ready else None


def moments(rounds: int) -> list[str]:
    """Return when the power goes in each round: some at the founding, first; then mostly while writing, every fourth at a start."""
    founding = rounds // 5
    return ["founding"] * founding + ["starting" if n % 4 == 3 else "writing" for n in range(rounds - founding)]


def run_rounds(run: PowerLossRun, rounds: int, say: Callable[[str], None]) -> None:
    """Cut the power that many times and check after the last. Raises PromiseBroken, MachineFailed."""
    for number, moment in enumerate(moments(rounds), 1):
        plan = run.plan(moment)
        say(f"round {number}: {plan.moment}")
        run.round(plan)
    run.check()


def show_that_lies_are_found(run: PowerLossRun) -> None:
    """Lose power once on a disk that acknowledges flushes and does not flush. Raises PromiseBroken, as it must."""
    run.round(Plan("writing", Fate.LOST, acknowledged=20, changes=5, lies=True))
    run.check()


def _summary(run: PowerLossRun) -> str:
    ledger, tally = run.ledger, run.tally
    cuts = ", ".join(f"{count} while {moment}" for moment, count in tally.cuts.items())
    fates = ", ".join(f"{count} {fate.name.lower()}" for fate, count in tally.fates.items())
    times = sorted(tally.up_s) or [0.0]
    return (
        f"{tally.cuts.total()} power cuts ({cuts}; cache: {fates}; {tally.unflushed} sectors unflushed); "
        f"{ledger.acknowledged} writes and {run.images.acknowledged} images acknowledged, {ledger.unanswered} writes under way "
        f'at a cut, {ledger.unavailable} answered "unavailable"; '
        f"{tally.repairs} boots with a repair by e2fsck; up in {times[len(times) // 2]:.1f} s (median), {times[-1]:.1f} s at most"
    )


def main() -> int:
    """Run what the command line says; 0 when no promise was broken."""
    parser = argparse.ArgumentParser(prog="scripts/power-loss", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="how often to cut the power (default: 20; about half a minute each)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="what the plans are drawn from")
    parser.add_argument(
        "--lying-disk", action="store_true", help="at the end, lose power on a disk that does not flush: the loss must be noticed"
    )
    options = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    say(f"seed {options.seed}")
    try:
        image = build_image(CACHE)
    except MissingPackage as error:
        print(f"power-loss: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="pyswarm-power-") as temporary:
        run = PowerLossRun(image, Path(temporary), options.seed, say)
        try:
            run_rounds(run, options.rounds, say)
        except (PromiseBroken, MachineFailed) as error:
            kept = CACHE / f"failed-{options.seed}"
            kept.mkdir(exist_ok=True)
            (kept / "ledger.json").write_text(run.ledger.written_down())
            shutil.copytree(temporary, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
            say(f"\nFAILED: {error}\n{_summary(run)}\nThe disk, the console and the ledger are kept in {kept}")
            return 1
        say(f"\n{_summary(run)}; lost: 0")
        return _lying_disk_is_noticed(run, say) if options.lying_disk else 0


def _lying_disk_is_noticed(run: PowerLossRun, say: Callable[[str], None]) -> int:
    try:
        show_that_lies_are_found(run)
    except (PromiseBroken, MachineFailed) as error:
        say(f"a disk that does not flush: noticed, {str(error).splitlines()[0]}")
        return 0
    say("FAILED: a disk that does not flush lost nothing that was noticed")
    return 1


if __name__ == "__main__":
    sys.exit(main())
