"""The express lane: short interactive texts overtake what is being computed, bit for bit alike."""

import asyncio
import queue
import threading
import time

import numpy as np
import pytest

from opengte import Encoder
from opengte.serve.config.inference import ModelSettings
from opengte.serve.inference.scheduler import Policy, Scheduler
from opengte.serve.inference.thread_priority import be_prompt
from opengte.serve.inference.types import Flight, Row, Spec
from opengte.serve.inference.workers import Engines, Lanes
from tests.support.serve_core import Held, Loader, Started, embed, queued, running

SPEC = Spec(frozenset(("dense",)), 4, b"", cached=False)
LANE, EXPRESS = "lane", "express"
CROWD = 100  # tokens


class Told(Started):
    """Lanes whose ordinary engine waits until it is let go; `done` is who computed what."""

    def __init__(self, lanes=1):
        self.go, self.done, self.begun = threading.Event(), queue.SimpleQueue(), threading.Event()
        engines = Engines((LANE,) * lanes, calm_tokens=CROWD, express=EXPRESS, express_tokens=20)
        self.lanes = Lanes(
            "test", engines, Scheduler(Policy(slice_tokens=50)), self.compute, flight, self.note
        )

    def compute(self, engine, flights):
        if engine == LANE:
            self.begun.set()
            assert self.go.wait(20)
        self.done.put((engine, [one.tokens for one in flights]))
        return [Row(one.tokens, one.tokens) for one in flights]

    def note(self, outcome):
        assert all(isinstance(result, Row) for result in outcome.results)

    def busy(self):
        """Give the ordinary lane something to do, and wait until it does."""
        self.lanes.add([flight(50, "bulk")])
        assert self.begun.wait(20)


def flight(tokens=5, priority="interactive"):
    return Flight(tokens, SPEC.outputs, priority, spec=SPEC, source="")


def test_a_short_text_does_not_wait_for_a_busy_lane():
    with Told() as told:
        told.busy()
        told.lanes.add([flight(8)], urgent=True)
        assert told.done.get(timeout=20) == (EXPRESS, [8])
        told.lanes.add([flight(9), flight(9), flight(9)], urgent=True)
        assert told.done.get(timeout=20) == (EXPRESS, [9, 9])
        assert told.done.get(timeout=20) == (EXPRESS, [9])
        assert told.lanes.active


@pytest.mark.parametrize(
    "waits", [flight(21), flight(5, "bulk")], ids=["a longer text", "bulk work"]
)
def test_what_waits_for_a_lane_all_the_same(waits):
    with Told() as told:
        told.busy()
        told.lanes.add([waits])
        told.lanes.add([flight(7)])
        assert told.done.get(timeout=20) == (EXPRESS, [7])
        told.go.set()
        assert told.done.get(timeout=20) == (LANE, [50])
        assert told.done.get(timeout=20) == (LANE, [waits.tokens])


def test_an_idle_lane_takes_short_texts_itself():
    with Told() as told:
        told.go.set()
        for _ in range(20):
            while not (told.lanes._idle and told.lanes._express_idle):
                time.sleep(0.001)
            told.lanes.add([flight(8)])
            assert told.done.get(timeout=20) == (LANE, [8])


def test_in_a_crowd_batches_are_large_and_short_texts_still_overtake():
    with Told() as told:
        told.busy()
        told.lanes.add([flight(30) for _ in range(4)], urgent=True)
        told.lanes.add([flight(8)], urgent=True)
        assert told.done.get(timeout=20) == (EXPRESS, [8])
        told.go.set()
        computed = [told.done.get(timeout=20) for _ in range(3)]
        assert computed == [(LANE, [50]), (LANE, [30, 30, 30]), (LANE, [30])]


def test_in_a_throng_the_express_lane_keeps_out():
    with Told() as told:
        told.busy()
        told.lanes.add([flight(30) for _ in range(30)], urgent=True)
        told.lanes.add([flight(8)], urgent=True)
        time.sleep(0.05)
        assert told.done.empty()
        told.go.set()
        computed = [told.done.get(timeout=20) for _ in range(3)]
        assert computed == [(LANE, [50]), (LANE, [30, 30, 30, 8]), (LANE, [30, 30, 30])]


def test_the_watch_sees_the_express_lane_too():
    with Told() as told:
        assert told.lanes.lanes[-1].engine == EXPRESS
        assert told.lanes.alive == 2


def test_queries_beside_bulk_work_are_the_same_bits():
    encoder = Encoder.load("minilm", engine="native", precision="int8", threads=2)
    documents = [f"document {i} " + "of some length " * 20 for i in range(60)]
    queries = [f"query number {i}" for i in range(40)]

    async def main():
        model = ModelSettings("minilm", engine="native", precision="int8", threads=2)
        async with running(model) as core:
            work = asyncio.create_task(embed(core, *documents, priority="bulk"))
            asked = []
            for query in queries:
                asked.append(asyncio.create_task(embed(core, query)))
                await asyncio.sleep(0.003)
            return await asyncio.gather(work, *asked)

    bulk, *found = asyncio.run(main())
    for answer, query in zip(found, queries, strict=True):
        np.testing.assert_array_equal(answer.dense[0], encoder.embed([query]).dense[0])
    np.testing.assert_array_equal(np.stack(bulk.dense), encoder.embed(documents).dense)


def test_asking_for_short_slices_harms_nobody():
    found = []
    thread = threading.Thread(target=lambda: found.append(be_prompt()))
    thread.start()
    thread.join()
    assert found[0] in (True, False)


def test_a_query_shares_no_batch_with_a_longer_text():
    async def main():
        load = Loader()
        async with running(ModelSettings("minilm"), load=load) as core:
            core._models[0].ready.runner._short = 6  # such an engine has no express lane
            async with Held(core, load) as engine:
                texts = [
                    "one",
                    "two words",
                    " ".join(["long"] * 9),
                    "three",
                    " ".join(["text"] * 8),
                ]
                asked = [await queued(core, text) for text in texts]
                many = await queued(core, *(f"{t} too" for t in texts), priority="bulk")
            await asyncio.gather(*asked, many)
            computed = [sorted(batch) for batch in engine.batches[1:]]
            assert sorted(computed) == [[3, 3, 4], [4, 4, 5, 11, 12], [10, 11]]

    asyncio.run(main())
