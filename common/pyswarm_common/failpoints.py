"""Places where a test can kill the daemon: between the steps of work that must be finished or undone after a crash.

    failpoint("join/certificate-saved")

does nothing, unless the environment variable PYSWARM_FAILPOINT names this place: then the process kills itself there. The cluster
tests go through all of them; tests/repo/test_tidy.py checks that each is named there.
"""

import os
import signal

VARIABLE = "PYSWARM_FAILPOINT"


def failpoint(name: str) -> None:
    """End this process with SIGKILL if a test asked for it here. `name`: `<work>/<step that is done>`."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
