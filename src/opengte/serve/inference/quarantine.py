"""Quarantine for inputs on which the engine failed: they are refused for a while."""

import time
from collections import OrderedDict

MAX_INPUTS = 4096
SECONDS = 3600.0  # until an input may be tried again


class Quarantine:
    """A bounded set of input hashes, each with the reason and an expiry."""

    def __init__(self, max_inputs: int = MAX_INPUTS, seconds: float = SECONDS) -> None:
        self._max_inputs, self._seconds = max_inputs, seconds
        self._entries: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: bytes, reason: str) -> None:
        """Quarantine an input; the oldest entry makes room."""
        self._entries[key] = time.monotonic() + self._seconds, reason
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_inputs:
            self._entries.popitem(last=False)

    def reason(self, key: bytes) -> str | None:
        """Return why an input is refused, None if it is not."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, reason = entry
        if time.monotonic() < expires:
            return reason
        del self._entries[key]
        return None
