"""Full queues, deadlines, clients that leave, equal inputs, and priorities."""

import asyncio
import gc
import random
import time

import pytest

from opengte.errors import DeadlineError, OverloadedError
from opengte.serve.config.inference import CacheSettings, ModelSettings
from tests.support.inference import (
    CountingObserver,
    Held,
    Loader,
    bounded,
    embed,
    empty,
    queued,
    running,
    until,
)

SMALL = ModelSettings("minilm", max_queue_tokens=100)


def test_a_full_queue_says_when_to_return():
    async def main():
        load = Loader()
        async with running(SMALL, load=load, observer=(seen := CountingObserver())) as core:
            async with Held(core, load):
                tasks = [await queued(core, f"text number {i} of some") for i in range(40)]
                done = {task for task in tasks if task.done()}
                refused = [task.exception() for task in done]
                assert refused and all(isinstance(error, OverloadedError) for error in refused)
                assert all(0 < error.retry_after < 60 for error in refused)
                longest = 5  # tokens, of the request that filled the queue
                assert core.models()[0].queued_tokens < 100 + longest
                assert seen.counts["refused_overload"] == len(refused)
            answers = await asyncio.gather(*(set(tasks) - done))
            assert len(answers) + len(refused) == 40
            await embed(core, "text")

    bounded(main())


def test_bulk_leaves_room_for_queries():
    async def main():
        load = Loader()
        async with running(SMALL, load=load) as core:
            async with Held(core, load):
                bulk = [await queued(core, f"bulk number {i}", priority="bulk") for i in range(40)]
                pending = [task for task in bulk if not task.done()]
                refused = [task.exception() for task in bulk if task.done()]
                assert refused and all(isinstance(error, OverloadedError) for error in refused)
                query = await queued(core, "a query")
                assert not query.done()
            await asyncio.gather(query, *pending)

    bounded(main())


def test_a_request_larger_than_the_queue_is_taken_when_there_is_room():
    async def main():
        async with running(SMALL) as core:
            texts = [f"text number {i}" for i in range(500)]
            answer = await embed(core, *texts, priority="bulk")
            assert all(vector is not None for vector in answer.dense)

    bounded(main())


def test_a_deadline_that_passes_is_not_computed():
    async def main():
        load = Loader()
        async with running(load=load, observer=(seen := CountingObserver())) as core:
            async with Held(core, load) as engine:
                started = time.monotonic()
                with pytest.raises(DeadlineError):
                    await embed(core, "too late", deadline=time.monotonic() + 0.1)
                assert time.monotonic() - started < 10  # the engine is held for longer
                with pytest.raises(DeadlineError):
                    await embed(core, "much too late", deadline=time.monotonic() - 1)
                assert core.models()[0].queued_tokens == 3
            await embed(core, "in time", deadline=time.monotonic() + 10)
            assert [4] not in engine.batches[:1] and len(engine.batches) == 2
            assert seen.counts["expired"] == 2

    bounded(main())


def test_a_client_that_leaves_costs_nothing():
    async def main():
        load = Loader()
        async with running(load=load, observer=(seen := CountingObserver())) as core:
            async with Held(core, load) as engine:
                tasks = [await queued(core, f"gone {i}") for i in range(50)]
                texts = (f"text {i} of many" for i in range(3000))
                large = await queued(core, *texts, priority="bulk")
                await until(lambda: seen.counts["cache_miss"] > 500)  # some of it is tokenised
                assert core.models()[0].queued_tokens > 1000
                for task in (*tasks, large):
                    task.cancel()
                await asyncio.wait([*tasks, large])
                assert core.models()[0].queued_tokens == 3
                before = len(engine.batches)
            assert len(engine.batches) == before
            assert seen.counts["cancelled"] == 51

    bounded(main())


def test_who_shares_an_input_with_one_that_leaves_still_gets_it():
    async def main():
        load = Loader()
        async with running(load=load) as core:
            async with Held(core, load):
                first = await queued(core, "shared", "own", priority="bulk")
                second = await queued(core, "shared", deadline=time.monotonic() + 20)
                third = await queued(core, "shared")
                first.cancel()
                third.cancel()
                await asyncio.wait([first, third])
            assert (await second).cached == 1

    bounded(main())


def test_equal_inputs_are_computed_once():
    async def main():
        load = Loader()
        async with running(load=load, observer=(seen := CountingObserver())) as core:
            async with Held(core, load) as engine:
                tasks = [await queued(core, "same", "same") for _ in range(10)]
            answers = await asyncio.gather(*tasks)
            assert engine.batches == [[3], [3]]
            assert sorted(answer.cached for answer in answers) == [0] + 9 * [1]
            assert len({answer.dense[0].tobytes() for answer in answers}) == 1
            assert seen.counts["duplicate"] == 19
            assert (await embed(core, "same", "same")).cached == 0  # there is no cache

    bounded(main())


def test_a_query_overtakes_bulk_and_a_large_request():
    async def main():
        load = Loader()
        settings = ModelSettings("minilm", max_batch_tokens=128)
        async with running(settings, load=load, observer=(seen := CountingObserver())) as core:
            async with Held(core, load):
                texts = [f"bulk text number {i} of a great many" for i in range(200)]
                bulk = await queued(core, *texts, priority="bulk")
                await until(lambda: seen.counts["cache_miss"] > 1)  # the first of it is tokenised
                before = seen.counts["cache_miss"]
                large = await queued(core, *(f"{text}!" for text in texts))
                await until(lambda: seen.counts["cache_miss"] > before)
                query = await queued(core, "a query")
            await query
            assert not bulk.done() and not large.done()
            await large
            assert not bulk.done()
            await bulk

    bounded(main())


@pytest.mark.slow
def test_after_thousands_of_requests_of_all_sorts_nothing_is_left():
    rng = random.Random(0)

    async def main():
        load = Loader()
        cache = CacheSettings(memory_bytes=200_000)
        settings = ModelSettings("minilm", max_queue_tokens=3000)
        async with running(settings, load=load, cache=cache) as core:

            async def one(number):
                texts = [f"text {rng.randrange(400)}" for _ in range(rng.choice([1, 1, 1, 3, 40]))]
                if rng.random() < 0.02:
                    texts.append("zebra" + " dog" * rng.randrange(50))
                task = asyncio.create_task(
                    embed(
                        core,
                        *texts,
                        priority=rng.choice(["interactive", "bulk"]),
                        deadline=rng.choice([None, time.monotonic() + rng.random() / 5]),
                        partial=rng.random() < 0.5,
                        truncation=rng.choice(["right", "error"]),
                    )
                )
                if rng.random() < 0.2:
                    await asyncio.sleep(rng.random() / 50)
                    task.cancel()
                return (await asyncio.gather(task, return_exceptions=True))[0]

            kinds = set()
            for _ in range(20):
                results = await asyncio.gather(*(one(i) for i in range(150)))
                kinds |= {type(result).__name__ for result in results}
                empty(core.served[0].ready.runner)
            assert {"EmbedAnswer", "CancelledError", "OverloadedError"} <= kinds
            assert kinds <= {
                "EmbedAnswer",
                "CancelledError",
                "OverloadedError",
                "DeadlineError",
                "EngineError",
                "InputError",
            }
            runner = core.served[0].ready.runner
            assert not runner.threads.active
            assert runner.threads.scheduler.interactive.heap_size <= 64
            assert runner.threads.scheduler.bulk.heap_size <= 64
            del results  # errors hold on to the frames that they came through
            gc.collect()
            requests = [
                thing for thing in gc.get_objects() if type(thing).__name__ == "PendingRequest"
            ]
            assert len(requests) <= 150  # of the last round, whose errors asyncio may still hold

    bounded(main())
