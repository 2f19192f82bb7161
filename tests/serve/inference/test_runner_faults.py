"""Engines that raise, hang or compute nonsense: only the inputs to blame fail."""

import asyncio
import time

import numpy as np
import pytest

from opengte.errors import EngineError, InputError, NotReadyError
from opengte.serve.config.inference import ModelSettings
from tests.support.inference import CountingObserver, Loader, embed, queued, running, until

HASTY = ModelSettings("minilm", batch_seconds=1.0)


def on_any_machine(coroutine):
    """Run, with a bound."""

    async def bounded():
        async with asyncio.timeout(60):
            return await coroutine

    return asyncio.run(bounded())


@pytest.mark.parametrize("word", ["zebra", "lemon"])
def test_a_bad_input_fails_alone_and_is_refused_the_next_time(word):
    async def main():
        load = Loader()
        async with running(load=load, observer=(seen := CountingObserver())) as core:
            (engine,) = load.engines
            good = (await embed(core, "a dog")).dense[0]
            texts = [f"text {i}" for i in range(20)]
            texts[13] = word
            answer = await embed(core, *texts, partial=True)
            (failure,) = answer.failures
            assert failure.index == 13 and isinstance(failure.error, EngineError)
            assert "illegal" not in str(failure.error)
            assert [i for i, vector in enumerate(answer.dense) if vector is None] == [13]
            assert seen.counts["engine_fault"] >= 2 and seen.counts["failed_input"] == 1

            before = len(engine.batches)
            with pytest.raises(InputError, match=r"inputs\[1\]: the input is refused: the engine"):
                await embed(core, "a dog", word)
            assert seen.counts["refused_poison"] == 1
            again = await embed(core, word, partial=True)
            assert isinstance(again.failures[0].error, InputError)
            assert len(engine.batches) - before <= 1  # "a dog" at most
            np.testing.assert_array_equal((await embed(core, "a dog")).dense[0], good)
            assert core.models()[0].state == "ready"
            await core.check()

    on_any_machine(main())


def test_requests_in_the_same_batch_do_not_notice():
    async def main():
        load = Loader()
        async with running(load=load) as core:
            (engine,) = load.engines
            engine.gate.clear()
            engine.batches.clear()
            first = asyncio.create_task(embed(core, "first"))
            await until(lambda: engine.batches)
            texts = [f"good {i}" for i in range(10)]
            tasks = [await queued(core, text) for text in (*texts, "zebra")]
            engine.gate.set()
            results = await asyncio.gather(first, *tasks, return_exceptions=True)
            assert max(map(len, engine.batches)) == 11  # they were in one
            assert isinstance(results[-1], EngineError)
            for text, answer in zip(texts, results[1:-1], strict=True):
                expected = (await embed(core, text)).dense[0]
                np.testing.assert_array_equal(answer.dense[0], expected)

    on_any_machine(main())


def test_a_hang_is_bounded_and_its_companions_are_computed_again():
    async def main():
        load = Loader()
        async with running(HASTY, load=load, observer=(seen := CountingObserver())) as core:
            started = time.monotonic()
            job = asyncio.create_task(embed(core, "good", "anchor", "better", partial=True))
            states = set()
            while not job.done():
                states.add(core.models()[0].state)
                if core.models()[0].state == "unhealthy":
                    with pytest.raises(NotReadyError, match="is unhealthy: a batch of"):
                        await embed(core, "other")
                    with pytest.raises(NotReadyError):
                        await core.check()
                await asyncio.sleep(0.01)
            answer = await job
            assert [failure.index for failure in answer.failures] == [1]
            assert answer.dense[0] is not None and answer.dense[2] is not None
            assert time.monotonic() - started < 15
            assert states == {"ready", "unhealthy"}
            await until(lambda: core.models()[0].state == "ready")
            with pytest.raises(InputError, match="refused"):
                await embed(core, "anchor")
            await embed(core, "good")
            await core.check()
            assert seen.counts["engine_fault"] == 2

    on_any_machine(main())


def test_what_waits_behind_a_hang_is_told_to_come_back():
    async def main():
        load = Loader()
        async with running(HASTY, load=load) as core:
            hung = asyncio.create_task(embed(core, "anchor"))
            await until(lambda: load.engines[0].batches[-1:] == [[3]])
            behind = [asyncio.create_task(embed(core, f"text {i}")) for i in range(5)]
            results = await asyncio.gather(*behind, return_exceptions=True)
            assert all(isinstance(result, NotReadyError) for result in results)
            assert all(result.retry_after is not None for result in results)
            with pytest.raises(EngineError, match="has not ended after"):
                await hung
            await until(lambda: core.models()[0].state == "ready")
            await embed(core, "text 1")

    on_any_machine(main())


def test_an_engine_that_fails_on_everything_is_replaced_and_nobody_is_blamed():
    async def main():
        load = Loader()
        async with running(load=load) as core:
            load.engines[0].broken = True
            load.fail = OSError("no disk")
            with pytest.raises(EngineError):
                await embed(core, "a dog")
            await until(lambda: core.models()[0].detail == "no disk")
            assert core.models()[0].state == "unhealthy"
            with pytest.raises(NotReadyError, match="is unhealthy: no disk"):
                await core.check()
            load.fail = None
            await until(lambda: core.models()[0].state == "ready")
            assert len(load.engines) == 2
            await embed(core, "a dog")  # not remembered as bad

    on_any_machine(main())


def test_check_finds_an_engine_that_breaks_without_requests():
    async def main():
        load = Loader()
        async with running(load=load) as core:
            await asyncio.gather(*(core.check() for _ in range(5)))
            load.engines[0].broken = True
            load.fail = OSError("no disk")
            with pytest.raises(NotReadyError, match="fails on a test text"):
                await core.check()
            assert core.models()[0].state == "unhealthy"

    on_any_machine(main())


def test_check_has_a_time_limit():
    async def main():
        load = Loader()
        async with running(load=load, check_seconds=0.2) as core:
            load.engines[0].gate.clear()
            with pytest.raises(NotReadyError, match="did not answer a test text within"):
                await core.check()
            load.engines[0].gate.set()
            await core.check()

    on_any_machine(main())


def test_a_model_that_hangs_while_closing_does_not_hold_the_server():
    async def main():
        load = Loader()
        async with running(load=load) as core:
            load.engines[0].gate.clear()
            job = asyncio.create_task(embed(core, "a dog"))
            await until(lambda: load.engines[0].batches[-1:] == [[4]])
            assert not await core.drain(0.2)
            with pytest.raises(NotReadyError, match="shutting down"):
                await job
            load.engines[0].gate.set()

    on_any_machine(main())
