"""Models that are loaded, reloaded, unloaded, and drained."""

import asyncio
import threading
import time

import pytest

from opengte.errors import NotReadyError
from opengte.serve.config.inference import ModelSettings
from opengte.serve.inference.service import InferenceService
from opengte.serve.types import EmbedRequest
from tests.support.inference import (
    Held,
    Loader,
    bounded,
    call,
    embed,
    empty,
    queued,
    running,
    until,
)

SMALL = ModelSettings("minilm", max_queue_tokens=100)


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
        with pytest.raises(NotReadyError, match="is loading"):
            await core.check()  # no model can be asked yet
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
            old = core.served[0].ready.runner
            await core.reload("minilm")
            before = answered
            await until(lambda: answered > before + 20)
            stop = True
            await asyncio.gather(*clients)
            assert core.served[0].ready.runner is not old
            empty(old)
            await until(lambda: not old.threads.alive)
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
            await until(lambda: not core.served[0].ready.runner.threads.alive)

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
