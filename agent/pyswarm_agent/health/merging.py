"""Whose healthcheck a container gets: the user's, the image's (`HEALTHCHECK`), or parts of both. Pure; Moby `daemon/commit.go`."""

from typing import Any

import msgspec

from pyswarm_agent.images import Image
from pyswarm_agent.runtime.records import HealthcheckConfig
from pyswarm_common.container_spec import HealthConfig
from pyswarm_common.specs import SECOND_NS

_DEFAULT = HealthcheckConfig()


def merge_healthcheck(asked: HealthConfig | None, image: Image) -> HealthcheckConfig:
    """Return how a container is checked: what the user leaves open is the image's, what both do is the default."""
    own, images = asked or HealthConfig(), _of_image(image.config.healthcheck)
    return HealthcheckConfig(
        test=tuple(own.test or images.test or ()),
        shell=image.config.shell or _DEFAULT.shell,
        interval_s=_seconds(own.interval or images.interval, _DEFAULT.interval_s),
        timeout_s=_seconds(own.timeout or images.timeout, _DEFAULT.timeout_s),
        start_period_s=_seconds(own.start_period or images.start_period, _DEFAULT.start_period_s),
        start_interval_s=_seconds(own.start_interval or images.start_interval, _DEFAULT.start_interval_s),
        retries=own.retries or images.retries or _DEFAULT.retries,
    )


def _of_image(healthcheck: dict[str, Any]) -> HealthConfig:
    """What an image says; nothing if that makes no sense, as for any other image without a healthcheck."""
    try:
        return msgspec.convert(healthcheck, HealthConfig)
    except msgspec.ValidationError:
        return HealthConfig()


def _seconds(duration_ns: int, default_s: float) -> float:
    return duration_ns / SECOND_NS if duration_ns > 0 else default_s
