"""What the operator says of images and registries. Light: the daemon reads its options before it loads anything else."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from pyswarm_common.errors import InvalidArgument


@dataclass(frozen=True)
class RegistrySettings:
    """What the operator says of registries. `insecure`: CIDRs or host[:port]; `mirrors`: URLs that are asked before Docker Hub."""

    insecure: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises InvalidArgument, in Docker's words, for a mirror that is no such URL."""
        for mirror in self.mirrors:
            url = urlsplit(mirror)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise InvalidArgument(f'invalid mirror: "{mirror}" must be a URL that begins with http:// or https://')
            if url.username or url.password:
                raise InvalidArgument("invalid mirror: username/password not allowed in URI")
            if url.query or url.fragment or url.path.strip("/"):
                raise InvalidArgument(f'invalid mirror: path, query, or fragment at end of the URI "{mirror}"')


@dataclass(frozen=True)
class CollectorSettings:
    """When images go by themselves. Percentages are of the disk that holds the images; a high one of 100: never for space."""

    high_percent: int = 85
    low_percent: int = 80
    unused_age_s: float = 0.0
    young_s: float = 120.0
    period_s: float = 300.0

    def check(self) -> None:
        """Raises InvalidArgument for percentages that make no sense."""
        if not 0 <= self.low_percent < self.high_percent <= 100:
            raise InvalidArgument(
                f"--image-gc-disk-percent {self.high_percent}:{self.low_percent}: give HIGH:LOW with 0 <= LOW < HIGH <= 100"
            )
        if self.unused_age_s < 0:
            raise InvalidArgument("--image-gc-age cannot be negative")
