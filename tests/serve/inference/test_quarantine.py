"""Quarantine for inputs on which the engine failed."""

from opengte.serve.inference.quarantine import Quarantine


def test_it_is_bounded_and_entries_expire():
    quarantine = Quarantine(max_inputs=3, seconds=100)
    for i in range(5):
        quarantine.add(bytes([i]), "bad")
    assert len(quarantine) == 3
    assert quarantine.reason(b"\0") is None and quarantine.reason(b"\4") == "bad"
    expired = Quarantine(seconds=-1)
    expired.add(b"x", "bad")
    assert expired.reason(b"x") is None and len(expired) == 0
