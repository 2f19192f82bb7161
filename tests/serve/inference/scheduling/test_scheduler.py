"""The scheduling policy, on a clock of its own."""

import math
import random
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.serve.inference.scheduling.scheduler import (
    ArrivalQueue,
    QueuedItem,
    Scheduler,
    SchedulerPolicy,
)

POLICY = SchedulerPolicy(slice_tokens=100, lookahead=8)

items = st.builds(
    QueuedItem,
    tokens=st.integers(1, 150),
    kind=st.sampled_from(["dense", "sparse"]),
    priority=st.sampled_from(["interactive", "bulk"]),
    deadline=st.none() | st.floats(0, 20),
    arrived=st.floats(0, 10),
)


def plainly(
    waiting: list[QueuedItem], room: int, now: float, lookahead: int, most: float = math.inf
):
    """What a queue takes, the obvious way: one look at all that waits, sorted."""
    batch, expired, passed = [], [], 0
    for item in sorted(waiting, key=lambda item: item.arrived):
        if passed >= lookahead or (batch and room <= 0):
            break
        if item.deadline is not None and item.deadline <= now:
            expired.append(item)
        elif item.tokens > most or (batch and (item.tokens > room or item.kind != batch[0].kind)):
            passed += 1
        else:
            batch.append(item)
            room -= item.tokens
    return batch, expired


@given(st.lists(items, max_size=30), st.integers(1, 200), st.floats(0, 20), st.data())
def test_a_queue_takes_what_one_look_at_all_of_it_would(found, room, now, data):
    most = data.draw(st.just(math.inf) | st.integers(1, 150), label="most")
    queue, waiting = ArrivalQueue(count()), []
    for item in found:
        queue.add(item)
        waiting.append(item)
        if waiting and data.draw(st.booleans(), label="remove one"):
            gone = data.draw(st.sampled_from(waiting))
            waiting.remove(gone)
            queue.remove(gone)
    while waiting:
        expected = plainly(waiting, room, now, POLICY.lookahead, most)
        taken = queue.take(room, now, POLICY.lookahead, most)
        assert (taken.batch, taken.expired) == expected
        for item in taken.batch + taken.expired:
            assert item.place is None
            waiting.remove(item)
        if not taken.batch + taken.expired:  # only longer ones are left, as far as it looks
            most = math.inf
        assert len(queue) == len(waiting)
        assert queue.tokens == sum(item.tokens for item in waiting)
    assert queue.oldest() is None


@given(st.lists(items, max_size=30), st.integers(1, 150))
def test_what_is_short_is_interactive_and_fits(found, most):
    scheduler = Scheduler(POLICY)
    for item in found:
        scheduler.add(item)
    waited = scheduler.interactive.tokens
    taken = scheduler.take_interactive(0.0, most)
    assert all(item.priority == "interactive" for item in taken.batch + taken.expired)
    assert sum(item.tokens for item in taken.batch) <= most
    gone = sum(item.tokens for item in taken.batch + taken.expired)
    assert scheduler.interactive.tokens == waited - gone
    assert len(scheduler) == len(found) - len(taken.batch) - len(taken.expired)


@given(st.lists(st.tuples(items, st.floats(0, 20)), max_size=60))
def test_every_item_is_taken_once_in_bounded_batches_of_one_kind(found):
    scheduler, out, expired = Scheduler(POLICY), [], []
    now = 0.0
    for item, pause in found:
        scheduler.add(item)
        if item.tokens % 3 == 0:
            scheduler.promote(item)
        now += pause / 10
        taken = scheduler.take(now)
        for batch in [taken]:
            check(batch.batch)
        out += taken.batch
        expired += taken.expired
    while len(scheduler):
        taken = scheduler.take(now)
        check(taken.batch)
        out += taken.batch
        expired += taken.expired
    assert sorted(map(id, out + expired)) == sorted(id(item) for item, _ in found)
    assert scheduler.tokens == 0
    assert all(item.deadline is not None and item.deadline <= now for item in expired)


def check(batch):
    assert len({item.kind for item in batch}) <= 1
    assert len({item.priority for item in batch}) <= 1
    assert len(batch) <= 1 or sum(item.tokens for item in batch) <= POLICY.slice_tokens
    lengths = [item.tokens for item in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_interactive_goes_first_and_the_oldest_of_a_class():
    scheduler = Scheduler(POLICY)
    bulk = [QueuedItem(60, "d", "bulk", arrived=0.0) for _ in range(2)]
    urgent = [QueuedItem(60, "d", arrived=float(i)) for i in (2, 1)]
    for item in bulk + urgent:
        scheduler.add(item)
    order = [scheduler.take(3.0).batch for _ in range(4)]
    assert order == [[urgent[1]], [urgent[0]], [bulk[0]], [bulk[1]]]


def test_an_item_larger_than_a_slice_goes_alone():
    scheduler = Scheduler(POLICY)
    large, small = QueuedItem(500, "d", arrived=0.0), QueuedItem(1, "d", arrived=1.0)
    scheduler.add(large)
    scheduler.add(small)
    assert scheduler.take(2.0).batch == [large]
    assert scheduler.take(2.0).batch == [small]
    assert scheduler.take(2.0).batch == []


def test_promoted_items_overtake_bulk():
    scheduler = Scheduler(POLICY)
    first, second = (
        QueuedItem(60, "d", "bulk", arrived=0.0),
        QueuedItem(60, "d", "bulk", arrived=1.0),
    )
    scheduler.add(first)
    scheduler.add(second)
    scheduler.promote(second)
    assert scheduler.take(2.0).batch == [second]
    scheduler.promote(second)  # is no longer there: nothing to do
    assert scheduler.take(2.0).batch == [first]
    assert not scheduler.remove(first)


def test_a_cancelled_item_is_never_taken_and_leaves_nothing_behind():
    scheduler = Scheduler(POLICY)
    found = [QueuedItem(10, "d", "bulk", arrived=float(i)) for i in range(1000)]
    for item in found:
        scheduler.add(item)
    for item in found[:-1]:
        assert scheduler.remove(item)
    assert scheduler.bulk.heap_size < 100
    assert scheduler.tokens == 10
    assert scheduler.take(0.0).batch == found[-1:]
    assert scheduler.clear() == []


# --- simulations: one server of a thousand tokens a second ---


def simulate(seconds, arrivals, policy, rate=1000.0):
    """Serve (time, tokens, priority) arrivals; return the waits of each class and its tokens."""
    scheduler = Scheduler(policy)
    arrivals = sorted(arrivals)
    waits = {"interactive": [], "bulk": []}
    served = {"interactive": 0, "bulk": 0}
    now, place = 0.0, 0
    while now < seconds:
        while place < len(arrivals) and arrivals[place][0] <= now:
            when, tokens, priority = arrivals[place]
            scheduler.add(QueuedItem(tokens, "d", priority, arrived=when))
            place += 1
        batch = scheduler.take(now).batch
        if not batch:
            if place == len(arrivals):
                break
            now = arrivals[place][0]
            continue
        now += sum(item.tokens for item in batch) / rate
        for item in batch:
            waits[item.priority].append(now - item.arrived)
            served[item.priority] += item.tokens
    return waits, served


def poisson(rng, rate, seconds, tokens, priority):
    now, found = 0.0, []
    while (now := now + rng.expovariate(rate)) < seconds:
        found.append((now, tokens(), priority))
    return found


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, math.floor(share * len(values)))]


@pytest.mark.parametrize("seed", range(3))
def test_bulk_beside_them_delays_queries_by_about_one_batch(seed):
    rng = random.Random(seed)
    policy = SchedulerPolicy(slice_tokens=100)
    queries = poisson(rng, 20, 60, lambda: rng.randint(5, 30), "interactive")
    admission = [(0.0, rng.randint(20, 100), "bulk") for _ in range(3000)]
    alone, _ = simulate(60, queries, policy)
    beside, served = simulate(60, queries + admission, policy)
    slice_seconds = policy.slice_tokens / 1000
    for share in (0.5, 0.99):
        waited = percentile(beside["interactive"], share)
        assert waited <= percentile(alone["interactive"], share) + 1.5 * slice_seconds
    # what the queries leave is computed for bulk
    assert served["bulk"] + served["interactive"] > 0.98 * 60 * 1000


def test_bulk_gets_its_share_of_a_server_that_queries_overload():
    rng = random.Random(1)
    policy = SchedulerPolicy(slice_tokens=100, aging_seconds=20.0)
    flood = poisson(rng, 100, 200, lambda: 20, "interactive")  # twice what can be served
    admission = [(0.0, 50, "bulk") for _ in range(5000)]
    _, early = simulate(10, flood + admission, policy)
    _, late = simulate(200, flood + admission, policy)
    _, before = simulate(100, flood + admission, policy)
    share = early["bulk"] / (early["bulk"] + early["interactive"])
    assert 0.1 <= share <= 0.4
    gained = late["bulk"] - before["bulk"], late["interactive"] - before["interactive"]
    assert gained[0] / sum(gained) == pytest.approx(policy.max_bulk_share, abs=0.05)


def test_old_bulk_never_takes_more_than_its_bound_from_queries():
    policy = SchedulerPolicy(slice_tokens=100, aging_seconds=0.001)
    flood = [(i / 100, 20, "interactive") for i in range(10_000)]
    admission = [(0.0, 100, "bulk") for _ in range(5000)]
    _, served = simulate(60, flood + admission, policy)
    assert served["bulk"] <= 0.55 * sum(served.values())
    assert served["interactive"] >= 0.45 * sum(served.values())


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.floats(0.05, 0.4), st.integers(20, 400))
def test_no_item_waits_for_ever(seed, least, slice_tokens):
    rng = random.Random(seed)
    policy = SchedulerPolicy(
        slice_tokens=slice_tokens, min_bulk_share=least, max_bulk_share=0.5, aging_seconds=5.0
    )
    arrivals = poisson(rng, 30, 20, lambda: rng.randint(1, 60), "interactive")
    arrivals += poisson(rng, 5, 20, lambda: rng.randint(1, 300), "bulk")
    waits, _ = simulate(1e9, arrivals, policy)
    assert len(waits["interactive"]) + len(waits["bulk"]) == len(arrivals)
    work = sum(tokens for _, tokens, _ in arrivals) / 1000
    assert max(waits["interactive"] + waits["bulk"], default=0) <= work + 1
