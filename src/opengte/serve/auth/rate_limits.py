"""Rate limits and quotas of API keys, enforced across all worker processes.

The state of a key is 64 bytes in shared memory, changed under a kernel lock: 6 us alone, and 12 us
while another process does nothing else. A transaction in SQLite takes 14 us, but up to 34 ms beside
another writer, and all requests of the process would wait for it.
"""

import struct
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from opengte.errors import LimitError
from opengte.serve.auth.keys import ApiKey
from opengte.serve.shared_memory import SharedMemory

_SLOT = struct.Struct("<ddddqqqq")  # the fields of _State
SLOT_BYTES = _SLOT.size
_INITIAL_SLOTS = 1024


@dataclass
class _State:
    """Two leaky buckets (level and time of the last change) and two counters with their period."""

    requests: float = 0.0
    requests_at: float = 0.0
    tokens: float = 0.0
    tokens_at: float = 0.0
    day: int = 0
    day_tokens: int = 0
    month: int = 0
    month_tokens: int = 0

    def pack(self) -> bytes:
        return _SLOT.pack(*vars(self).values())


def rate_limit_memory(descriptor: int | None = None) -> SharedMemory:
    """Return memory for a `RateLimiter`: new, or that of an inherited descriptor."""
    return SharedMemory(_INITIAL_SLOTS * SLOT_BYTES, descriptor)


class RateLimiter:
    """Leaky buckets of requests and tokens a minute, and token quotas a day and month (UTC)."""

    def __init__(self, shared: SharedMemory) -> None:
        self._shared = shared

    def restore(
        self, key: ApiKey, day_tokens: int, month_tokens: int, now: float | None = None
    ) -> None:
        """Set the tokens that a key has used today and this month."""
        now = time.time() if now is None else now
        with self._shared.locked():
            state = self._read(key.slot, now)
            state.day_tokens, state.month_tokens = day_tokens, month_tokens
            self._write(key.slot, state)

    def take_request(self, key: ApiKey, now: float | None = None) -> None:
        """Count one request; raise LimitError when those of the minute are used up."""
        rate = key.limits.requests_per_minute
        if rate is None:
            return
        now = time.time() if now is None else now
        with self._shared.locked():
            state = self._read(key.slot, now)
            level = _drained(state.requests, state.requests_at, rate, now)
            if level + 1 > rate:
                raise LimitError(
                    f"requests_per_minute: the {rate:,} of key `{key.id}` are used up",
                    retry_after=(level + 1 - rate) * 60 / rate,
                )
            state.requests, state.requests_at = level + 1, now
            self._write(key.slot, state)

    def take_tokens(self, key: ApiKey, tokens: int, now: float | None = None) -> None:
        """Count tokens; raise LimitError, counting nothing, when a limit would be exceeded.

        A request for more tokens than the limit of a minute is admitted when the bucket is empty;
        the excess is deducted from later minutes. Otherwise it could never be admitted.
        """
        limits = key.limits
        if not tokens or not limits.any:
            return
        now = time.time() if now is None else now
        with self._shared.locked():
            state = self._read(key.slot, now)
            if (rate := limits.tokens_per_minute) is not None:
                level = _drained(state.tokens, state.tokens_at, rate, now)
                over = level + min(tokens, rate) - rate
                if over > 0:
                    raise LimitError(
                        f"tokens_per_minute: {tokens:,} tokens are more than key `{key.id}` has "
                        f"left of its {rate:,}",
                        retry_after=over * 60 / rate,
                    )
                state.tokens, state.tokens_at = level + tokens, now
            _check_quota(key, "day", limits.tokens_per_day, state.day_tokens + tokens, now)
            _check_quota(key, "month", limits.tokens_per_month, state.month_tokens + tokens, now)
            state.day_tokens += tokens
            state.month_tokens += tokens
            self._write(key.slot, state)

    def reconcile(self, key: ApiKey, difference: int, now: float | None = None) -> None:
        """Add the difference between the tokens computed and those taken; never refuses."""
        if not difference or not key.limits.any:
            return
        now = time.time() if now is None else now
        with self._shared.locked():
            state = self._read(key.slot, now)
            if (rate := key.limits.tokens_per_minute) is not None:
                level = _drained(state.tokens, state.tokens_at, rate, now)
                state.tokens, state.tokens_at = max(0.0, level + difference), now
            state.day_tokens = max(0, state.day_tokens + difference)
            state.month_tokens = max(0, state.month_tokens + difference)
            self._write(key.slot, state)

    def _read(self, slot: int, now: float) -> _State:
        end = (slot + 1) * SLOT_BYTES
        if end > len(self._shared.bytes):
            self._shared.grow(2 * end)
        state = _State(*_SLOT.unpack_from(self._shared.bytes, slot * SLOT_BYTES))
        day, month = _calendar(now)
        if state.day != day:
            state.day, state.day_tokens = day, 0
        if state.month != month:
            state.month, state.month_tokens = month, 0
        return state

    def _write(self, slot: int, state: _State) -> None:
        start = slot * SLOT_BYTES
        self._shared.bytes[start : start + SLOT_BYTES] = state.pack()


def _drained(level: float, at: float, rate: int, now: float) -> float:
    """Return the level of a bucket that loses `rate` a minute, since its last change."""
    return max(0.0, level - max(0.0, now - at) * rate / 60)


def _check_quota(key: ApiKey, period: str, quota: int | None, used: int, now: float) -> None:
    if quota is not None and used > quota:
        raise LimitError(
            f"tokens_per_{period}: the {quota:,} of key `{key.id}` are used up",
            retry_after=_until_next(period, now),
        )


_calendar_of: tuple[int, tuple[int, int]] = (-1, (0, 0))


def _calendar(now: float) -> tuple[int, int]:
    """Return the number of the day and of the month, in UTC; computed once a day."""
    global _calendar_of
    day = int(now // 86400)
    if _calendar_of[0] != day:
        date = datetime.fromtimestamp(now, UTC)
        _calendar_of = (day, (day, date.year * 12 + date.month))
    return _calendar_of[1]


def _until_next(period: str, now: float) -> float:
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    following = today + timedelta(days=1)
    if period == "month":
        following = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return following.timestamp() - now
