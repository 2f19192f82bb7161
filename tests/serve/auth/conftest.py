"""Keys in a folder of their own, seen at once, and what admits their holders."""

import pytest

from opengte.serve.auth import keys
from opengte.serve.auth.authorizer import KeyAuthorizer
from opengte.serve.auth.keys import KeyFile, KeyRing
from opengte.serve.auth.rate_limits import RateLimiter, rate_limit_memory
from opengte.serve.auth.usage import UsageLog


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(keys, "REFRESH_SECONDS", -1.0)


@pytest.fixture
def file(tmp_path):
    return KeyFile(tmp_path)


@pytest.fixture
def gate(tmp_path):
    made = []

    def make(usage=False, **more):
        table = RateLimiter(rate_limit_memory())
        log = UsageLog(tmp_path) if usage else None
        made.append(KeyAuthorizer(KeyRing(tmp_path, more.pop("static", None)), table, log, **more))
        return made[-1]

    yield make
    for one in made:
        one.keys.close()
        if one.usage is not None:
            one.usage.close()
