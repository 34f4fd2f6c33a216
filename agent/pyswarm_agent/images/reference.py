"""Names of images: `nginx` → `docker.io/library/nginx:latest`, and back to what people write.

The grammar is that of github.com/distribution/reference. Pure: text in, values out.
"""

import re
from dataclasses import dataclass, replace

from pyswarm_common.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_OFFICIAL_PREFIX = "library/"
_LEGACY_DOMAIN = "index.docker.io"
_NAME_LENGTH_MAX = 255

_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_BARE_ID = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True)
class Reference:
    """A complete image name. With both a tag and a digest, the digest decides what is fetched."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository in full: `docker.io/library/nginx`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: `nginx`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL_PREFIX)
        # `library/a/b` keeps its prefix, since `a/b` would be another repository.
        path = self.path if "/" in short else short
        is_ambiguous = _BARE_ID.fullmatch(path) or _split_domain(path)[0] != DEFAULT_DOMAIN
        return self.name if is_ambiguous else path

    @property
    def suffix(self) -> str:
        """The part after the repository: `:latest`, `@sha256:…` or both."""
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        """The whole as people write it: `nginx:latest`."""
        return self.familiar_name + self.suffix

    @property
    def manifest_key(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return self.name + self.suffix

    def with_digest(self, digest: str) -> "Reference":
        """Return the same repository at `digest`, without a tag."""
        return replace(self, tag="", digest=digest)


def parse_reference(text: str) -> Reference:
    """Return the complete form of an image name as a person writes it; a name with neither tag nor digest gets `latest`.

    Raises InvalidArgument, in Docker's words.
    """
    if _BARE_ID.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, digest = _split_digest(text)
    domain, path_and_tag = _split_domain(rest)
    path, colon, tag = path_and_tag.partition(":")
    if domain == DEFAULT_DOMAIN and path and "/" not in path:
        path = _OFFICIAL_PREFIX + path
    if path.lower() != path and _PATH.fullmatch(path.lower()):
        raise InvalidArgument(f"invalid reference format: repository name ({path}) must be lowercase")
    if not _DOMAIN.fullmatch(domain) or not _PATH.fullmatch(path) or (colon and not _TAG.fullmatch(tag)):
        raise InvalidArgument(f"invalid reference format: {text!r}")
    if len(domain) + 1 + len(path) > _NAME_LENGTH_MAX:
        raise InvalidArgument(f"repository name must not be more than {_NAME_LENGTH_MAX} characters")
    if not tag and not digest:
        tag = DEFAULT_TAG
    return Reference(domain=domain, path=path, tag=tag, digest=digest)


def is_digest(text: str) -> bool:
    """Whether `text` is a digest that pyswarm can check: `sha256:` and 64 hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def _split_digest(text: str) -> tuple[str, str]:
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise InvalidArgument(f"invalid reference format: {text!r} (pyswarm checks sha256 digests only)")
    return rest, digest


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        return (DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first), rest
    return DEFAULT_DOMAIN, text
