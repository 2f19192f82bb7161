"""Short time slices."""

import threading

from opengte.serve.inference.scheduling.thread_priority import request_short_timeslice


def test_asking_for_short_slices_harms_nobody():
    found = []
    thread = threading.Thread(target=lambda: found.append(request_short_timeslice()))
    thread.start()
    thread.join()
    assert found[0] in (True, False)
