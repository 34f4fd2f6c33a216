"""Why a member cannot go on: its data is lost or damaged, or the cluster removed it. Told from its files and from what it logs.

What etcd 3.4 does with each kind of damage, as found by making it:

    a log file with a wrong byte                    exits 1, `walpb: crc mismatch`, `wal: max entry size limit exceeded`
    an empty log file                               panics, `cannot use none as id`
    a database cut off or overwritten               panics, `failed to open database`, `freepages: …`
    a database gone, with a snapshot before it      panics, `failed to recover v3 backend from snapshot`
    the log's end gone (a follower)                 panics at the leader's next word, `Was the raft log corrupted, truncated, …?`
    the log or everything gone                      starts, and votes as if it had promised nothing

So the last is looked for before a start (`missing_data`); a member that once served and has no log is never started. A lone member
whose log ends early cannot be told from one that was cut off while writing: etcd takes it for that.
A full or failing disk makes etcd exit with similar words, and is no damage: the data is good once the disk is.
"""

import enum
import re
import shutil
import time
from pathlib import Path

import structlog

from pyswarm_common.errors import PyswarmError
from pyswarm_common.files import sync_directory

_log = structlog.get_logger(__name__)
_REMOVED = "the member has been permanently removed from the cluster"
_ENVIRONMENT = re.compile(
    r"no space left on device|disk quota exceeded|read-only file system|permission denied|too many open files|"
    r"cannot allocate memory|out of memory|address already in use|operation not permitted"
)
_DAMAGE = re.compile(
    r'"error":"(?P<error>(?:walpb|wal|snap|raftpb|proto): [^"]*|[^"]*(?:unexpected EOF|crc mismatch)[^"]*)"|'
    r"(?P<panic>panic: (?:failed to open database|failed to recover v3 backend|cannot use none as id|freepages|tocommit\(|"
    r"invalid (?:page|database|freelist)|page \d+|proto: |wal|snap|assertion failed: Page)[^\n]*)|"
    r"(?P<lost>Was the raft log corrupted, truncated, or lost\?)"
)
_PANIC = re.compile(r"^(?:panic|fatal error|unexpected fault address)[: ][^\n]*", re.MULTILINE)


class MemberRemoved(PyswarmError):
    """The cluster removed this member: its data is worth nothing any more, and it may only enter as a new one."""


class DataUnusable(PyswarmError):
    """The member's data, in `data_dir`, cannot be used, and it must not vote with it. `reason`: what is wrong with the data."""

    def __init__(self, data_dir: Path, reason: str, what: str) -> None:
        super().__init__(f"the cluster data of this manager in {data_dir} is {what} ({reason})")
        self.data_dir = data_dir
        self.reason = reason


class DataLost(DataUnusable):
    """The member served before, and its data is gone."""

    def __init__(self, data_dir: Path, reason: str) -> None:
        super().__init__(data_dir, reason, "lost")


class DataDamaged(DataUnusable):
    """The member keeps exiting because its data is damaged."""

    def __init__(self, data_dir: Path, reason: str) -> None:
        super().__init__(data_dir, reason, "damaged")


def only_copy_lost(problems: BaseExceptionGroup[DataUnusable], data_dir: Path) -> PyswarmError:
    """Return what to say on the only manager of a swarm, which nobody can give the data back to."""
    return PyswarmError(
        f"{_first(problems).message}, and no other manager is known that has it. Bring {data_dir} back as it was, or begin anew "
        "from a backup: `pyswarm swarm leave --force`, then `pyswarm swarm restore FILE`. Containers go on meanwhile; "
        "what is left of the data stays where it is until the node leaves"
    )


def entering_anew(problems: BaseExceptionGroup[DataUnusable], aside: Path | None) -> PyswarmError:
    """Return what to say where other managers have the data too."""
    kept = f"; what is left of it is in {aside}" if aside is not None else ""
    return PyswarmError(f"{_first(problems).message}{kept}. This manager gets it anew from the others")


def _first(problems: BaseExceptionGroup[DataUnusable]) -> DataUnusable:
    first = problems.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


class Verdict(enum.Enum):
    """What an exit that nobody asked for means."""

    RESTART = "start it again"
    REMOVED = "the cluster removed the member"
    DAMAGED = "its data is damaged"
    PANICKED = "it may be damage, if it happens again and again"


def judge_exit(code: int, log: str) -> tuple[Verdict, str]:
    """Return what an exit with this code and these last words means, and the words that tell it. Pure."""
    if code == 0 and _REMOVED in log:
        return Verdict.REMOVED, _REMOVED
    if code <= 0 or _ENVIRONMENT.search(log):
        return Verdict.RESTART, ""
    if found := _DAMAGE.search(log):
        return Verdict.DAMAGED, _shorten(found["error"] or found["panic"] or found["lost"])
    if found := _PANIC.search(log):
        return Verdict.PANICKED, _shorten(found[0])
    return Verdict.RESTART, ""


def missing_data(etcd_dir: Path) -> str | None:
    """Return what of a member's data is not there, or None. A member without its log would vote as if it had promised nothing."""
    if not etcd_dir.is_dir() or not any(etcd_dir.iterdir()):
        return "there is no data"
    if not any(log.stat().st_size for log in (etcd_dir / "member" / "wal").glob("*.wal")):
        return "its log is gone"
    return None


def bootstrapped_path(data_dir: Path) -> Path:
    """Return the file that says that the member in `data_dir` has served. It lies beside it, to outlive a loss of the folder."""
    return data_dir.with_name(f"{data_dir.name}.bootstrapped")


def has_served(data_dir: Path) -> bool:
    """Whether a member in `data_dir` has served, so that what it promised to others counts."""
    return bootstrapped_path(data_dir).exists()


def set_data_aside(data_dir: Path, word: str = "damaged") -> Path | None:
    """Rename a member's data (`etcd.damaged-20261121T120000`), so that it may enter anew; returns the new path, None without data.

    The one set aside last is kept, older ones are removed: a disk that damages data again and again must not fill up with it.
    """
    aside = data_dir.with_name(f"{data_dir.name}.{word}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    bootstrapped_path(data_dir).unlink(missing_ok=True)
    if not data_dir.exists():
        sync_directory(data_dir.parent)
        return None
    for older in data_dir.parent.glob(f"{data_dir.name}.{word}-*"):
        shutil.rmtree(older, ignore_errors=True)
    data_dir.rename(aside)
    sync_directory(data_dir.parent)
    _log.error("etcd.data_set_aside", path=str(aside))
    return aside


def forget_data(data_dir: Path) -> None:
    """Remove a member's data, because it is a member no more."""
    bootstrapped_path(data_dir).unlink(missing_ok=True)
    shutil.rmtree(data_dir, ignore_errors=True)


def _shorten(words: str) -> str:
    return words if len(words) <= 200 else words[:200] + "…"
