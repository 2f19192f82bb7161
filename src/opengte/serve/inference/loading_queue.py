"""The requests that wait until a model is loaded."""

import asyncio
import time

from opengte.errors import DeadlineError, NotReadyError
from opengte.serve.inference.scheduling.admission import BULK_SHARE, MIN_QUEUE_TOKENS
from opengte.serve.types import Call

RETRY_AFTER = 2.0  # seconds, for clients of a model that is not ready
MAX_WAITING = 1024  # requests


class LoadingQueue:
    """Requests wait here, bounded in number and tokens as in the queue of a loaded model.

    A request is admitted while the count is below the limit, and counts as at most half of it. The
    limit is what a loaded model admits at least, so that what waited is not refused afterwards.
    """

    def __init__(self, name: str, max_tokens: int | None = None) -> None:
        self._name = name
        self._limit = max_tokens or MIN_QUEUE_TOKENS
        self._loaded = asyncio.Event()
        self.waiting = 0
        self.tokens = 0

    async def wait(self, tokens: int, call: Call) -> None:
        """Return once the model is loaded, has failed or is given up.

        Raises NotReadyError, with the seconds to wait, if too many wait already, and DeadlineError.
        """
        limit = self._limit if call.priority == "interactive" else int(self._limit * BULK_SHARE)
        if self.waiting >= MAX_WAITING or self.tokens >= limit:
            raise NotReadyError(
                f"`{self._name}` is loading, and {self.waiting} requests of {self.tokens} tokens "
                f"wait for it already; come back in {RETRY_AFTER:.0f} seconds",
                RETRY_AFTER,
            )
        tokens = min(tokens, max(1, self._limit // 2))
        self.waiting += 1
        self.tokens += tokens
        left = None if call.deadline is None else call.deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                await self._loaded.wait()
        except TimeoutError:
            raise DeadlineError(
                f"the request's deadline passed while `{self._name}` was loading"
            ) from None
        finally:
            self.waiting -= 1
            self.tokens -= tokens

    def release(self) -> None:
        """Let everyone go on who waits, and who comes later."""
        self._loaded.set()
