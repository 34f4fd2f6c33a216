"""The `filters` query parameter: `{"key": {"value": true}}` (current clients) or `{"key": ["value"]}` (older ones)."""

from collections.abc import Collection, Mapping

import msgspec

from pyswarm_common.errors import InvalidArgument


class Filters:
    """Parsed filters: a set of wanted values by key; a key that is absent lets everything through."""

    def __init__(self, wanted: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self._wanted = dict(wanted or {})

    @classmethod
    def parse(cls, text: str | None, accepted: Collection[str]) -> "Filters":
        """Return the filters in `text`. Raises InvalidArgument for bad JSON or a key that is not accepted."""
        if not text:
            return cls()
        try:
            raw = msgspec.json.decode(text.encode(), type=dict[str, dict[str, bool] | list[str]])
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"invalid filter: {error}") from error
        for key in raw:
            if key not in accepted:
                raise InvalidArgument(f"Invalid filter '{key}'")
        return cls({k: tuple(i for i, on in v.items() if on) if isinstance(v, dict) else tuple(v) for k, v in raw.items()})

    def __contains__(self, key: str) -> bool:
        return bool(self._wanted.get(key))

    def values(self, key: str) -> tuple[str, ...]:
        """Return the wanted values of a key; empty when there is no such filter."""
        return self._wanted.get(key, ())

    def allows(self, key: str, value: str) -> bool:
        """Whether `value` equals one of the wanted values."""
        return key not in self or value in self.values(key)

    def allows_prefix(self, key: str, *candidates: str) -> bool:
        """Whether one of the candidates starts with one of the wanted values."""
        return key not in self or any(c.startswith(v) for v in self.values(key) for c in candidates)

    def allows_labels(self, key: str, labels: Mapping[str, str] | None) -> bool:
        """Whether the labels hold every wanted `name` or `name=value`."""
        return all(_label_matches(wanted, labels or {}) for wanted in self.values(key))


def _label_matches(wanted: str, labels: Mapping[str, str]) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)
