"""The parts of images' names. Pure."""


def split_reference(name: str) -> tuple[str, str]:
    """Return an image's repository, and its tag or `sha256:…` digest ("" when it has none)."""
    repository, at, digest = name.partition("@")
    if at:
        return repository, digest
    before, colon, after = name.rpartition(":")
    return (before, after) if colon and "/" not in after else (name, "")
