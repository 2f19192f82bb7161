"""Bisecting a batch on which the engine fails."""

from opengte.serve.inference.scheduling.batching import isolate_failures
from opengte.serve.inference.types import FailedInput, QueuedItem


def test_isolation_finds_exactly_the_bad_ones():
    inputs = [QueuedItem(1, "d") for _ in range(37)]
    bad = {id(inputs[i]) for i in (0, 17, 18, 36)}

    def run(part):
        if any(id(each) in bad for each in part):
            raise RuntimeError("no")
        return [id(each) for each in part]

    results, faults, engine_failure = isolate_failures(inputs, run, lambda: None)
    assert engine_failure is None and faults >= 8
    for each, result in zip(inputs, results, strict=True):
        if id(each) in bad:
            assert isinstance(result, FailedInput) and result.quarantine
        else:
            assert result == id(each)


def test_nobody_is_blamed_for_a_sick_engine():
    def run(part):
        raise RuntimeError("no")

    runs = []
    results, _, engine_failure = isolate_failures(
        [QueuedItem(1, "d")] * 64, run, lambda: runs.append(1) or "sick"
    )
    assert engine_failure == "sick" and len(results) == 64
    assert all(isinstance(result, FailedInput) and not result.quarantine for result in results)
    assert len(runs) == 1  # it is not tried 64 times
