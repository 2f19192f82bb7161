"""Rate limits and quotas, against a slow obvious twin, and across processes."""

import multiprocessing
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.errors import InputError, LimitError
from opengte.serve.auth.keys import ApiKey, RateLimits
from opengte.serve.auth.rate_limits import RateLimiter, rate_limit_memory


def key(slot=1, **limits):
    return ApiKey(
        slot, "k", "k", b"", None, None, 0.0, None, None, None, "bulk", RateLimits(**limits), False
    )


@pytest.fixture
def table():
    shared = rate_limit_memory()
    yield RateLimiter(shared)
    shared.close()


def test_requests_of_a_minute(table):
    mine = key(requests_per_minute=3)
    for _ in range(3):
        table.take_request(mine, now=1000.0)
    with pytest.raises(
        LimitError, match="requests_per_minute: the 3 of key `k` are used"
    ) as caught:
        table.take_request(mine, now=1000.0)
    assert caught.value.retry_after == pytest.approx(20)
    with pytest.raises(LimitError):
        table.take_request(mine, now=1019.0)
    table.take_request(mine, now=1020.1)


def test_tokens_of_a_minute(table):
    mine = key(tokens_per_minute=600)
    table.take_tokens(mine, 500, now=0.0)
    with pytest.raises(LimitError, match="200 tokens are more than key `k` has left") as caught:
        table.take_tokens(mine, 200, now=0.0)
    assert caught.value.retry_after == pytest.approx(10)
    table.take_tokens(mine, 200, now=10.0)


def test_more_tokens_than_a_minute_has_pass_once_and_are_paid_for_later(table):
    mine = key(tokens_per_minute=60)
    table.take_tokens(mine, 600, now=0.0)
    with pytest.raises(LimitError) as caught:
        table.take_tokens(mine, 1, now=0.0)
    assert caught.value.retry_after == pytest.approx(541)
    table.take_tokens(mine, 1, now=541.0)


def test_what_was_refused_is_not_counted(table):
    mine = key(tokens_per_minute=100, tokens_per_day=50)
    with pytest.raises(LimitError, match="per_day"):
        table.take_tokens(mine, 60, now=0.0)
    table.take_tokens(mine, 50, now=0.0)


def test_quotas_begin_again_with_the_day_and_the_month_of_utc(table):
    mine = key(tokens_per_day=10, tokens_per_month=15)
    noon = datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp()
    table.take_tokens(mine, 10, noon)
    with pytest.raises(LimitError, match="tokens_per_day") as caught:
        table.take_tokens(mine, 1, noon)
    assert caught.value.retry_after == 12 * 3600
    table.take_tokens(mine, 5, noon + 86400)
    with pytest.raises(LimitError, match="tokens_per_month") as caught:
        table.take_tokens(mine, 1, noon + 86400)
    assert caught.value.retry_after == 12 * 3600
    table.take_tokens(mine, 10, noon + 2 * 86400)


def test_settling_corrects_what_was_taken(table):
    mine = key(tokens_per_minute=100, tokens_per_day=100)
    table.take_tokens(mine, 100, now=0.0)
    table.reconcile(mine, -60, now=0.0)
    table.take_tokens(mine, 60, now=0.0)
    table.reconcile(mine, 40, now=0.0)
    with pytest.raises(LimitError) as caught:
        table.take_tokens(mine, 1, now=0.0)
    assert caught.value.retry_after == pytest.approx(41 * 0.6)


def test_a_clock_that_goes_back_gives_nothing(table):
    mine = key(requests_per_minute=1)
    table.take_request(mine, now=1000.0)
    with pytest.raises(LimitError):
        table.take_request(mine, now=0.0)


def test_there_is_room_for_any_number_of_keys(table):
    for slot in (0, 5000, 200_000):
        mine = key(slot, requests_per_minute=1)
        table.take_request(mine, now=0.0)
        with pytest.raises(LimitError):
            table.take_request(mine, now=0.0)


def test_a_limit_of_nothing_is_an_error():
    with pytest.raises(InputError, match="tokens_per_day: got 0; expected at least 1"):
        RateLimits(tokens_per_day=0)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 80)), max_size=30),
)
def test_the_bucket_does_what_its_history_says(rate, events):
    shared = rate_limit_memory()
    table, mine, now = RateLimiter(shared), key(tokens_per_minute=rate), 1000.0
    level = 0.0
    for pause, tokens in events:
        now += pause
        level = max(0.0, level - pause * rate / 60)
        expected = level + min(tokens, rate) <= rate
        if abs(level + min(tokens, rate) - rate) < 1e-9 * rate + 1e-9:
            break  # rounding decides
        try:
            table.take_tokens(mine, tokens, now)
        except LimitError as error:
            assert not expected
            later = level - error.retry_after * rate / 60
            assert max(0.0, later) + min(tokens, rate) == pytest.approx(rate)
        else:
            assert expected
            level += tokens
    shared.close()


def _spend(descriptor, times, passed):
    table, mine = RateLimiter(rate_limit_memory(descriptor)), key(requests_per_minute=500)
    count = 0
    for _ in range(times):
        try:
            table.take_request(mine, now=1000.0)
            count += 1
        except LimitError:
            pass
    passed.put(count)


def test_a_limit_holds_over_several_processes():
    shared = rate_limit_memory()
    context = multiprocessing.get_context("fork")
    passed = context.Queue()
    processes = [
        context.Process(target=_spend, args=(shared.descriptor, 400, passed)) for _ in range(3)
    ]
    for one in processes:
        one.start()
    total = sum(passed.get(timeout=30) for _ in processes)
    for one in processes:
        one.join()
    shared.close()
    assert total == 500


def test_it_is_fast(table):
    mine = key(requests_per_minute=10**9, tokens_per_minute=10**9, tokens_per_day=10**12)
    times = []
    for _ in range(2000):
        start = time.thread_time()
        table.take_request(mine)
        table.take_tokens(mine, 5)
        table.reconcile(mine, -1)
        times.append(time.thread_time() - start)
    assert sorted(times)[1000] < 200e-6  # 50 when the machine does nothing else
