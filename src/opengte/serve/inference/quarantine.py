"""Inputs that made the engine fail on their own: remembered, so that they are refused."""

import time
from collections import OrderedDict

ENTRIES = 4096
SECONDS = 3600.0  # an input may be tried again after that


class Poison:
    """A bounded memory of bad inputs, by hash."""

    def __init__(self, entries: int = ENTRIES, seconds: float = SECONDS) -> None:
        self._entries, self._seconds = entries, seconds
        self._found: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def add(self, key: bytes, reason: str) -> None:
        """Remember an input."""
        self._found[key] = time.monotonic() + self._seconds, reason
        self._found.move_to_end(key)
        while len(self._found) > self._entries:
            self._found.popitem(last=False)

    def reason(self, key: bytes) -> str | None:
        """Return why an input is refused, None when it is not."""
        found = self._found.get(key)
        if found is None:
            return None
        until, reason = found
        if time.monotonic() < until:
            return reason
        del self._found[key]
        return None
