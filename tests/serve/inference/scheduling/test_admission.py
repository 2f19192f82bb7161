"""Admission control: the limit on queued tokens."""

import pytest

from opengte.errors import OverloadedError
from opengte.serve.inference.scheduling.admission import AdmissionController
from opengte.serve.inference.scheduling.throughput import Throughput


def test_the_backlog_counts_what_is_left():
    admission = AdmissionController(Throughput(100, 1.0), 1000)
    first = admission.admit(600, "interactive")
    assert admission.tokens == 500  # a large request counts as half of the queue
    first.resize(200)
    assert admission.tokens == 200
    second = admission.admit(450, "interactive")
    third = admission.admit(
        400, "interactive"
    )  # a full queue refuses all alike; it is not full yet
    with pytest.raises(OverloadedError, match="1050 tokens wait, the limit of 1000") as caught:
        admission.admit(10, "interactive")
    assert caught.value.retry_after == pytest.approx(0.6)
    third.resize(150)
    with pytest.raises(OverloadedError, match="limit of 750 for bulk"):
        admission.admit(200, "bulk")
    for ticket in (first, second, third):
        ticket.resize(0)
    assert admission.tokens == admission.interactive_tokens == 0


def test_interactive_requests_wait_for_each_other_only_so_long():
    admission = AdmissionController(
        Throughput(100, 1.0), minimum=50
    )  # 3000 tokens, 500 of them interactive
    tickets = [admission.admit(640, "bulk") for _ in range(4)]
    assert admission.tokens == 2560
    with pytest.raises(OverloadedError, match="limit of 2250 for bulk"):
        admission.admit(1, "bulk")
    tickets += [admission.admit(250, "interactive") for _ in range(2)]  # it overtakes
    with pytest.raises(OverloadedError, match="the limit of 3000 for interactive"):
        admission.admit(1, "interactive")
    for ticket in tickets[:4]:
        ticket.resize(0)
    with pytest.raises(OverloadedError, match="500 tokens wait, the limit of 500") as caught:
        admission.admit(50, "interactive")
    assert caught.value.retry_after == pytest.approx(0.5)


def test_the_queue_follows_the_measured_speed():
    throughput = Throughput(100, 1.0, engines=2)
    admission = AdmissionController(throughput, minimum=50)
    assert admission.limit == 6000
    for _ in range(1000):
        throughput.record(1000, 1.0)
    assert admission.limit == pytest.approx(60_000, rel=0.01)
    throughput.record(1, 1e9)
    assert admission.limit == 50
