"""The volumes of this node: the local driver, and what containers mount."""

from pyswarm_agent.volumes.records import ANONYMOUS_LABEL, LOCAL_DRIVER, Volume
from pyswarm_agent.volumes.store import VolumeStore

__all__ = ["ANONYMOUS_LABEL", "LOCAL_DRIVER", "Volume", "VolumeStore"]
