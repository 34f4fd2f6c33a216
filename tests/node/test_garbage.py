"""The garbage collector while a manager runs."""

import gc

from pyswarm_node.garbage import THRESHOLDS, garbage_collected_rarely


def test_the_collector_comes_rarely_only_while_a_manager_runs() -> None:
    before = gc.get_threshold()
    with garbage_collected_rarely():
        assert gc.get_threshold() == THRESHOLDS
    assert gc.get_threshold() == before
