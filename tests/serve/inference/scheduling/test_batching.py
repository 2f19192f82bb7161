"""Bisecting a batch on which the engine fails."""

from opengte.serve.inference.scheduling.batching import isolate_failures
from opengte.serve.inference.types import FailedInput, QueuedItem


def test_isolation_finds_exactly_the_bad_ones():
    flights = [QueuedItem(1, "d") for _ in range(37)]
    bad = {id(flights[i]) for i in (0, 17, 18, 36)}

    def run(part):
        if any(id(flight) in bad for flight in part):
            raise RuntimeError("no")
        return [id(flight) for flight in part]

    results, faults, sick = isolate_failures(flights, run, lambda: None)
    assert sick is None and faults >= 8
    for flight, result in zip(flights, results, strict=True):
        if id(flight) in bad:
            assert isinstance(result, FailedInput) and result.quarantine
        else:
            assert result == id(flight)


def test_nobody_is_blamed_for_a_sick_engine():
    def run(part):
        raise RuntimeError("no")

    runs = []
    results, _, sick = isolate_failures(
        [QueuedItem(1, "d")] * 64, run, lambda: runs.append(1) or "sick"
    )
    assert sick == "sick" and len(results) == 64
    assert all(isinstance(result, FailedInput) and not result.quarantine for result in results)
    assert len(runs) == 1  # it is not tried 64 times
