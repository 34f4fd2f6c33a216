"""What is wrong with a member that does not serve, in a line for people."""

import json

from pyswarm_common.disk_space import disk_full_message, is_disk_full
from pyswarm_manager.etcd.member import EtcdMember

_TAIL_BYTES = 4000


def member_trouble(member: EtcdMember) -> str:
    """Return why the member does not run; "" when it does, though perhaps without answering."""
    if is_disk_full(member.settings.data_dir):
        return disk_full_message(member.settings.data_dir)
    if member.pid is not None:
        return ""
    words = last_words(_tail(member)) or "its last words are unknown"
    return f"its etcd member keeps exiting ({member.restarts} times; see {member.settings.log_path}): {words}"


def last_words(log: str) -> str:
    """Return the last complaint in an etcd log (JSON lines, panics between them); "" when there is none. Pure."""
    for line in reversed(log.splitlines()):
        if line.startswith(("panic: ", "fatal error: ")):
            return line
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "panic", "fatal"):
            return ": ".join(str(entry[key]) for key in ("msg", "error") if entry.get(key))
    return ""


def _tail(member: EtcdMember) -> str:
    try:
        with member.settings.log_path.open("rb") as log:
            log.seek(max(0, member.settings.log_path.stat().st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace")
    except OSError:
        return ""
