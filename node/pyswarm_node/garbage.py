"""How often Python's garbage collector may halt a manager's event loop.

The objects of the store are not the collector's business (`gc=False`), but each agent's session has a hundred that are, and every
full collection looks at all of them: with a thousand sessions it takes 0.15 s. With Python's own settings it comes several times a
second while many tasks are created, when nearly all that it finds is still in use. So the manager's modules are left out for good,
and the collector waits for far more new objects before it looks at young ones, and for far more of these looks before a full one.
"""

import contextlib
import gc
from collections.abc import Iterator

THRESHOLDS = (10_000, 20, 50)
"""New objects before a look at the youngest, and looks at one generation before one at the next."""


@contextlib.contextmanager
def garbage_collected_rarely() -> Iterator[None]:
    """While a manager runs in this process."""
    before = gc.get_threshold()
    gc.collect()  # what is frozen is never freed, so no garbage of an earlier try may be among it
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
