"""A short soak of the networks (`network_soak.py` runs for as long as is asked for)."""

import pytest
from network_soak import Soak, soaked_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]


def test_after_random_work_and_damage_every_table_equals_the_store() -> None:
    with soaked_cluster() as cluster:
        soak = Soak(cluster, seed=20)
        soak.run(40.0)
        assert soak.steps > 20
