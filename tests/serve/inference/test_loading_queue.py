"""Requests that wait for a model: as many as the bounds allow, no longer than their deadline."""

import asyncio
import time

import pytest

from opengte.errors import DeadlineError, NotReadyError
from opengte.serve.inference import loading_queue
from opengte.serve.inference.loading_queue import LoadingQueue
from tests.support.inference import bounded, call


async def started(*waits):
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.sleep(0)
    return tasks


def test_those_that_wait_go_on_together_and_later_ones_at_once():
    async def main():
        queue = LoadingQueue("m", 100)
        tasks = await started(*(queue.wait(10, call()) for _ in range(3)))
        assert (queue.waiting, queue.tokens) == (3, 30)
        assert not any(task.done() for task in tasks)
        queue.release()
        await asyncio.gather(*tasks)
        await queue.wait(10, call())
        assert (queue.waiting, queue.tokens) == (0, 0)

    bounded(main())


@pytest.mark.parametrize(("priority", "admitted"), [("interactive", 10), ("bulk", 8)])
def test_tokens_are_bounded_and_bulk_leaves_room(priority, admitted):
    async def main():
        queue = LoadingQueue("m", 100)
        tasks = await started(*(queue.wait(10, call(priority=priority)) for _ in range(admitted)))
        with pytest.raises(NotReadyError, match=f"{admitted} requests of {admitted}0 tokens") as no:
            await queue.wait(1, call(priority=priority))
        assert no.value.retry_after == loading_queue.RETRY_AFTER
        queue.release()
        await asyncio.gather(*tasks)

    bounded(main())


def test_a_request_of_any_size_is_admitted_and_counts_as_half_of_the_limit():
    async def main():
        queue = LoadingQueue("m", 100)
        tasks = await started(queue.wait(10**9, call()), queue.wait(10**9, call()))
        assert (queue.waiting, queue.tokens) == (2, 100)
        queue.release()
        await asyncio.gather(*tasks)

    bounded(main())


def test_requests_are_bounded_in_number(monkeypatch):
    monkeypatch.setattr(loading_queue, "MAX_WAITING", 2)

    async def main():
        queue = LoadingQueue("m")
        tasks = await started(*(queue.wait(0, call()) for _ in range(2)))
        with pytest.raises(NotReadyError, match="2 requests of 0 tokens wait"):
            await queue.wait(0, call())
        tasks[0].cancel()  # a client that leaves makes room
        await asyncio.gather(tasks[0], return_exceptions=True)
        tasks += await started(queue.wait(0, call()))
        queue.release()
        await asyncio.gather(*tasks[1:])

    bounded(main())


def test_a_request_waits_no_longer_than_its_deadline():
    async def main():
        queue = LoadingQueue("m")
        with pytest.raises(DeadlineError, match="while `m` was loading"):
            await queue.wait(1, call(deadline=time.monotonic() + 0.01))
        assert (queue.waiting, queue.tokens) == (0, 0)

    bounded(main())
