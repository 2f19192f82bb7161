"""What tests of the pages share."""

import time

SECONDS = 60


def wait_until(page, expression):
    """Wait for JavaScript to be true, without `eval` in the page, which its policy forbids."""
    deadline = time.monotonic() + SECONDS
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(30)
