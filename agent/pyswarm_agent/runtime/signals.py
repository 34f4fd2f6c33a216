"""Signal names as Docker takes them: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`; pure."""

import signal

from pyswarm_common.errors import InvalidArgument


def signal_number(name: str) -> int:
    """Return the number of a signal given by name or number. Raises InvalidArgument."""
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    upper = name.upper()
    upper = upper if upper.startswith("SIG") else f"SIG{upper}"
    base, plus, offset = upper.partition("+")
    try:
        number = int(signal.Signals[base]) + (int(offset) if plus else 0)
    except (KeyError, ValueError):
        raise InvalidArgument(f"invalid signal: {name}") from None
    if not 0 < number < signal.NSIG or (plus and base != "SIGRTMIN"):
        raise InvalidArgument(f"invalid signal: {name}")
    return number
