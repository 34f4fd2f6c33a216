"""A manager in a machine of its own loses power during its writes: nothing acknowledged is missing. A lying disk is found out."""

import random
from pathlib import Path

import pytest
from machine_image import build_image
from power_disk import Fate
from power_loss import CACHE, MachineFailed, Plan, PowerLossRun, PromiseBroken, show_that_lies_are_found

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]


def test_a_manager_that_loses_power_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    run = PowerLossRun(build_image(CACHE), tmp_path, seed, print)
    for fate in (Fate.SCATTERED, Fate.LOST):
        run.round(Plan("writing", fate, acknowledged=rng.randint(10, 40), changes=rng.randint(1, 25)))
    # The check after the second cut comes with the boot of the third, on a disk that does not flush: that loss must be seen.
    before = run.ledger.acknowledged
    with pytest.raises((PromiseBroken, MachineFailed)) as found:
        show_that_lies_are_found(run)
    assert len(run.tally.up_s) >= 3, f"after an honest power cut: {found.value}"
    assert run.ledger.acknowledged > before, "writes were acknowledged on the disk that lies"
