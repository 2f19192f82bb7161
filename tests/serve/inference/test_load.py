"""Full queues, deadlines, clients that leave, equal inputs, models that come and go."""

import asyncio
import gc
import random
import threading
import time

import numpy as np
import pytest

from opengte.errors import DeadlineError, NotReadyError, OverloadedError
from opengte.serve.config.inference import CacheSettings, ModelSettings
from opengte.serve.inference.admission import Backlog
from opengte.serve.inference.service import InferenceService
from opengte.serve.inference.throughput import Pace
from opengte.serve.types import EmbedRequest
from tests.support.serve_core import Held, Loader, Seen, call, embed, empty, queued, running, until

SMALL = ModelSettings("minilm", max_queue_tokens=100)


def bounded(coroutine):
    async def main():
        async with asyncio.timeout(60):
            return await coroutine

    return asyncio.run(main())


# --- back-pressure ---


def test_a_full_queue_says_when_to_return():
    async def main():
        load = Loader()
        async with running(SMALL, load=load, observer=(seen := Seen())) as core:
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


def test_the_backlog_counts_what_is_left():
    backlog = Backlog(Pace(100, 1.0), 1000)
    first = backlog.admit(600, "interactive")
    assert backlog.tokens == 500  # a large request counts as half of the queue
    first.hold(200)
    assert backlog.tokens == 200
    second = backlog.admit(450, "interactive")
    third = backlog.admit(400, "interactive")  # a full queue refuses all alike; it is not full yet
    with pytest.raises(OverloadedError, match="1050 tokens wait, the limit of 1000") as caught:
        backlog.admit(10, "interactive")
    assert caught.value.retry_after == pytest.approx(0.6)
    third.hold(150)
    with pytest.raises(OverloadedError, match="limit of 750 for bulk"):
        backlog.admit(200, "bulk")
    for ticket in (first, second, third):
        ticket.hold(0)
    assert backlog.tokens == backlog.interactive_tokens == 0


def test_interactive_requests_wait_for_each_other_only_so_long():
    backlog = Backlog(Pace(100, 1.0), least=50)  # 3000 tokens, 500 of them interactive
    tickets = [backlog.admit(640, "bulk") for _ in range(4)]
    assert backlog.tokens == 2560
    with pytest.raises(OverloadedError, match="limit of 2250 for bulk"):
        backlog.admit(1, "bulk")
    tickets += [backlog.admit(250, "interactive") for _ in range(2)]  # it overtakes
    with pytest.raises(OverloadedError, match="the limit of 3000 for interactive"):
        backlog.admit(1, "interactive")
    for ticket in tickets[:4]:
        ticket.hold(0)
    with pytest.raises(OverloadedError, match="500 tokens wait, the limit of 500") as caught:
        backlog.admit(50, "interactive")
    assert caught.value.retry_after == pytest.approx(0.5)


# --- deadlines and clients that leave ---


def test_a_deadline_that_passes_is_not_computed():
    async def main():
        load = Loader()
        async with running(load=load, observer=(seen := Seen())) as core:
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
        async with running(load=load, observer=(seen := Seen())) as core:
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


# --- equal inputs ---


def test_equal_inputs_are_computed_once():
    async def main():
        load = Loader()
        async with running(load=load, observer=(seen := Seen())) as core:
            async with Held(core, load) as engine:
                tasks = [await queued(core, "same", "same") for _ in range(10)]
            answers = await asyncio.gather(*tasks)
            assert engine.batches == [[3], [3]]
            assert sorted(answer.cached for answer in answers) == [0] + 9 * [1]
            assert len({answer.dense[0].tobytes() for answer in answers}) == 1
            assert seen.counts["duplicate"] == 19
            assert (await embed(core, "same", "same")).cached == 0  # there is no cache

    bounded(main())


def test_the_cache_answers_with_the_same_bits_within_its_bytes():
    async def main():
        load = Loader()
        cache = CacheSettings(memory_bytes=64 * 1024)
        async with running(load=load, cache=cache, observer=(seen := Seen())) as core:
            first = await embed(core, "a dog", "a cat")
            batches = len(load.engines[0].batches)
            again = await embed(core, "a cat", "a dog")
            assert len(load.engines[0].batches) == batches
            assert again.cached == 2 and seen.counts["cache_hit"] == 2
            assert seen.counts["cache_miss"] == 2
            np.testing.assert_array_equal(first.dense[0], again.dense[1])
            assert again.token_counts == [4, 4]
            with pytest.raises(ValueError, match="read-only"):
                again.dense[0][0] = 1.0
            for different in (
                {"dimensions": 100},
                {"normalize": False},
                {"outputs": ("states",)},
                {"truncation": "left"},
            ):
                assert (await embed(core, "a dog", **different)).cached == 0
            await embed(core, *(f"text {i}" for i in range(200)))
            info = core.cache_info()
            assert 0 < info.bytes <= info.max_bytes == 64 * 1024
            assert info.entries < 60
            assert (await embed(core, "a dog")).cached == 0

    bounded(main())


# --- interactive and bulk, on the real scheduler ---


def test_a_query_overtakes_bulk_and_a_large_request():
    async def main():
        load = Loader()
        settings = ModelSettings("minilm", max_batch_tokens=128)
        async with running(settings, load=load, observer=(seen := Seen())) as core:
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


# --- models that come and go ---


def test_models_load_in_their_order_and_one_that_fails_stops_nobody(tmp_path):
    missing = ModelSettings(str(tmp_path / "nothing"), name="missing")

    async def main():
        core = InferenceService([missing, ModelSettings("minilm")])
        await core.start()
        assert [status.state for status in core.models()] == ["loading", "loading"]
        with pytest.raises(NotReadyError, match="`minilm` is loading") as caught:
            await core.embed(EmbedRequest("minilm", ("a",)), call())
        assert caught.value.retry_after
        with pytest.raises(NotReadyError):
            await embed(core, "a")
        assert not await core.ready()
        failed, ready = core.models()
        assert (failed.state, ready.state) == ("failed", "ready")
        assert "nothing" in failed.detail and failed.card is None
        assert ready.card.dimension == 384 and ready.max_batch_tokens and ready.max_queue_tokens
        with pytest.raises(NotReadyError, match="`missing` is failed") as caught:
            await core.embed(EmbedRequest("missing", ("a",)), call())
        assert caught.value.retry_after is None
        assert (await embed(core, "a")).model.name == "minilm"
        await core.check()
        await core.drain(5)

    bounded(main())


def test_a_server_whose_models_all_failed_is_not_well(tmp_path):
    async def main():
        core = InferenceService([ModelSettings(str(tmp_path / "nothing"))])
        await core.start()
        await core.ready()
        with pytest.raises(NotReadyError, match="is failed"):
            await core.check()
        await core.drain(1)

    bounded(main())


def test_reload_loses_no_request():
    async def main():
        load = Loader()
        async with running(load=load) as core:
            stop = False
            answered = 0

            async def client(number):
                nonlocal answered
                while not stop:
                    await embed(core, f"text {number} {answered}")
                    answered += 1

            clients = [asyncio.create_task(client(i)) for i in range(8)]
            await until(lambda: answered > 20)
            old = core._models[0].ready.runner
            await core.reload("minilm")
            before = answered
            await until(lambda: answered > before + 20)
            stop = True
            await asyncio.gather(*clients)
            assert core._models[0].ready.runner is not old
            empty(old)
            await until(lambda: not old.lanes.alive)
            assert len(load.engines) == 2 and load.engines[1].batches

            load.fail = OSError("no disk")
            with pytest.raises(OSError, match="no disk"):
                await core.reload("minilm")
            assert core.models()[0].state == "ready"
            await embed(core, "still here")

    bounded(main())


def test_draining_finishes_what_is_there_and_takes_no_more():
    async def main():
        load = Loader()
        async with running(load=load) as core:
            async with Held(core, load):
                waiting = [await queued(core, f"text {i}") for i in range(10)]
                drained = asyncio.create_task(core.drain(10))
                await asyncio.sleep(0.05)
                with pytest.raises(NotReadyError, match="shutting down"):
                    await embed(core, "one more")
                assert not drained.done()
            assert await drained
            assert all(answer.dense[0] is not None for answer in await asyncio.gather(*waiting))
            await until(lambda: not core._models[0].ready.runner.lanes.alive)

    bounded(main())


def test_unload_forgets_a_model():
    async def main():
        other = ModelSettings("minilm", name="other")
        async with running(ModelSettings("minilm"), other) as core:
            await core.unload("other")
            assert [status.name for status in core.models()] == ["minilm"]
            await core.embed(EmbedRequest("minilm", ("a",)), call())

    bounded(main())


def test_threads_end_with_the_service():
    before = threading.active_count()

    async def main():
        async with running() as core:
            await embed(core, "a")

    for _ in range(2):
        bounded(main())
        deadline = time.monotonic() + 20
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= before


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
                empty(core._models[0].ready.runner)
            assert {"EmbedAnswer", "CancelledError", "OverloadedError"} <= kinds
            assert kinds <= {
                "EmbedAnswer",
                "CancelledError",
                "OverloadedError",
                "DeadlineError",
                "EngineError",
                "InputError",
            }
            runner = core._models[0].ready.runner
            assert runner.lanes._busy == 0
            assert len(runner.lanes._scheduler._interactive._heap) <= 64
            assert len(runner.lanes._scheduler._bulk._heap) <= 64
            assert not core._checks
            del results  # errors hold on to the frames that they came through
            gc.collect()
            jobs = [thing for thing in gc.get_objects() if type(thing).__name__ == "Job"]
            assert len(jobs) <= 150  # of the last round, whose errors asyncio may still hold

    bounded(main())


def test_the_queue_follows_the_measured_speed():
    pace = Pace(100, 1.0, lanes=2)
    backlog = Backlog(pace, least=50)
    assert backlog.limit == 6000
    for _ in range(1000):
        pace.measured(1000, 1.0)
    assert backlog.limit == pytest.approx(60_000, rel=0.01)
    pace.measured(1, 1e9)
    assert backlog.limit == 50
