"""Who is admitted, with which models, limits and quotas."""

import time

import pytest

from opengte.errors import AccessError, LimitError
from opengte.serve.auth.keys import RateLimits
from opengte.serve.auth.usage import read_usage
from opengte.serve.config.inference import ModelSettings
from opengte.serve.types import Caller


def test_who_holds_a_key_is_admitted(file, gate):
    key, secret = file.create("team", priority="bulk")
    identity = gate().authenticate(secret, "minilm")
    assert (identity.key, identity.priority) == (key.id, "bulk")


def test_without_keys_everyone_is_admitted(gate):
    assert gate().authenticate(None, "minilm") == gate().authenticate("anything", None)
    assert not gate().key_needed


def test_from_the_first_key_on_a_key_is_needed_even_when_it_is_revoked(file, gate):
    one = gate()
    assert not one.key_needed
    key, secret = file.create("team")
    file.revoke(key.id)
    assert one.key_needed
    with pytest.raises(AccessError, match=f"`{key.id}` is revoked"):
        one.authenticate(secret, None)


@pytest.mark.parametrize(
    "secret", [None, "", "x", "gte_aaaaaaaa_bbbb", "gte__", "\udc80", "ü" * 99]
)
def test_a_missing_or_unknown_key_is_refused_without_being_quoted(file, gate, secret):
    file.create("team")
    with pytest.raises(AccessError) as caught:
        gate().authenticate(secret, None)
    assert not caught.value.authenticated
    assert not secret or len(secret) < 2 or secret not in str(caught.value)


def test_the_right_id_with_another_secret_is_refused(file, gate):
    key, secret = file.create("team")
    with pytest.raises(AccessError):
        gate().authenticate(secret[:-1] + ("a" if secret[-1] != "a" else "b"), None)


def test_a_key_for_some_models(file, gate):
    _, secret = file.create("team", models=("minilm",))
    models = (ModelSettings("minilm", aliases=("small",)), ModelSettings("org/big", name="big"))
    one = gate(models=models)
    one.authenticate(secret, "minilm")
    for name in ("small", "MiniLM:latest", "sentence-transformers/all-MiniLM-L6-v2"):
        one.authenticate(secret, name)
    for name in ("BIG", "org/big", "unknown"):
        with pytest.raises(AccessError, match=f"may not use the model `{name}`"):
            one.authenticate(secret, name)
    with pytest.raises(AccessError, match="may not use the model `big`; it may use `min") as caught:
        one.authenticate(secret, "big")
    assert caught.value.authenticated
    identity = one.authenticate(secret, None)
    with pytest.raises(AccessError):
        one.reserve(identity, "big", 1)
    assert one.may_use(identity, "minilm") and not one.may_use(identity, "big")


def test_a_key_for_a_model_by_another_of_its_names(file, gate):
    _, secret = file.create("team", models=("org/Big",))
    one = gate(models=(ModelSettings("org/big", name="b"), ModelSettings("minilm")))
    one.authenticate(secret, "b")
    with pytest.raises(AccessError):
        one.authenticate(secret, "minilm")


def test_usage_is_recorded_and_the_estimate_corrected(file, gate, tmp_path):
    key, secret = file.create("team", limits=RateLimits(tokens_per_day=100))
    one = gate(usage=True)
    identity = one.authenticate(secret, "minilm")
    one.reserve(identity, "minilm", 90)
    with pytest.raises(LimitError):
        one.reserve(one.authenticate(secret, "minilm"), "minilm", 20)
    one.record(identity, "minilm", 30, 2)
    one.reserve(one.authenticate(secret, "minilm"), "minilm", 70)
    assert [(u.key, u.tokens, u.texts) for u in read_usage(tmp_path)] == [(key.id, 30, 2)]


def test_a_failed_request_costs_nothing(file, gate):
    _, secret = file.create("team", limits=RateLimits(tokens_per_minute=100))
    one = gate(usage=True)
    for _ in range(5):
        identity = one.authenticate(secret, "minilm")
        one.reserve(identity, "minilm", 90)
        one.record(identity, "minilm", 0, 0)
    assert one.usage.flush()
    assert one.usage.totals(time.strftime("%Y-%m-%d", time.gmtime()), time.strftime("%Y-%m")) == {}


def test_a_new_server_knows_what_was_used_today(file, gate):
    _, secret = file.create("team", limits=RateLimits(tokens_per_day=100))
    first = gate(usage=True)
    identity = first.authenticate(secret, "minilm")
    first.reserve(identity, "minilm", 90)
    first.record(identity, "minilm", 90, 1)
    second = gate(usage=True)
    second.restore_quotas()
    with pytest.raises(LimitError, match="tokens_per_day: the 100 of key"):
        second.reserve(second.authenticate(secret, "minilm"), "minilm", 20)


def test_an_identity_without_a_key_has_no_limit(gate):
    one = gate()
    one.reserve(Caller(), "minilm", 10**9)
    one.record(Caller(), "minilm", 10**9, 1)
