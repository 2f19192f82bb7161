"""API keys: made, listed, rotated, revoked; and seen by servers."""

import json
import os
import re
import sqlite3
import stat
import time

import pytest
from click.testing import CliRunner

from opengte.cli import main
from opengte.errors import AccessError, InputError
from opengte.serve.auth import keys
from opengte.serve.auth.keys import KeyRing
from opengte.serve.auth.usage import UsageLog


def test_a_key_is_kept_as_a_hash(file, tmp_path):
    key, secret = file.create("team")
    assert re.fullmatch(r"gte_[a-z0-9]{8}_[A-Za-z0-9]{43}", secret)
    assert key.id == keys.key_id(secret)
    kept = (tmp_path / "keys.db").read_bytes()  # all of it: the log was written back
    assert secret.encode() not in kept
    assert secret.rpartition("_")[2].encode() not in kept
    assert keys.hash_key(secret) in kept
    assert stat.S_IMODE((tmp_path / "keys.db").stat().st_mode) == 0o600


def test_changes_are_seen_by_a_running_server(file, gate):
    one = gate()
    key, secret = file.create("team")
    assert one.authenticate(secret, None).key == key.id
    _, second = file.rotate("team")
    assert one.authenticate(second, None).key == key.id
    with pytest.raises(AccessError, match="not known"):
        one.authenticate(secret, None)
    file.revoke("team")
    with pytest.raises(AccessError, match="revoked"):
        one.authenticate(second, None)


def test_the_file_is_not_read_at_every_request(file, gate, monkeypatch):
    monkeypatch.setattr(keys, "REFRESH_SECONDS", 60.0)
    file.create("team")
    one = gate()
    monkeypatch.setattr(keys, "read_keys", None)
    monkeypatch.setattr(os, "stat", None)
    with pytest.raises(AccessError):
        one.authenticate("gte_a_b", None)


def test_a_rotated_key_works_on_for_a_while(file, gate):
    key, secret = file.create("team")
    _, second = file.rotate(key.id, grace=60)
    assert gate().authenticate(secret, None).key == gate().authenticate(second, None).key == key.id
    file.rotate(key.id, grace=-1)
    with pytest.raises(AccessError):
        gate().authenticate(second, None)


def test_a_revoked_key_has_no_grace(file, gate):
    key, secret = file.create("team")
    file.rotate(key.id, grace=60)
    file.revoke(key.id)
    with pytest.raises(AccessError):
        gate().authenticate(secret, None)
    with pytest.raises(InputError, match="is revoked; make a new one"):
        file.rotate(key.id)


def test_an_expired_key(file, gate, monkeypatch):
    now = time.time()
    _, secret = file.create("team", expires=now + 60)
    one = gate()
    one.authenticate(secret, None)
    monkeypatch.setattr(time, "time", lambda: now + 61)
    with pytest.raises(AccessError, match="is expired"):
        one.authenticate(secret, None)


def test_the_key_of_the_setting(gate):
    one = gate(static="hush")
    assert one.key_needed
    assert one.authenticate("hush", "any").key == "static"
    with pytest.raises(AccessError):
        one.authenticate("hushh", None)


def test_keys_that_cannot_be_read_stop_the_start(tmp_path):
    (tmp_path / "keys.db").write_bytes(b"this is no database, and so it opens no door" * 99)
    with pytest.raises(InputError, match="cannot read the keys in .*keys.db"):
        KeyRing(tmp_path)


def test_keys_that_cannot_be_read_any_more_still_hold(file, gate, tmp_path):
    _, secret = file.create("team")
    one = gate()
    (tmp_path / "keys.db").unlink()
    (tmp_path / "keys.db").write_bytes(b"this is no database" * 99)
    assert one.authenticate(secret, None).key
    assert one.keys.failures
    assert not one.keys.working
    (tmp_path / "keys.db").unlink()
    assert one.authenticate(secret, None).key
    _, other = file.create("other")
    assert one.authenticate(other, None).key
    assert one.keys.working


def test_a_copy_on_a_read_only_volume_is_read_and_read_again(file, tmp_path, monkeypatch):
    _, secret = file.create("team")
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "keys.db").write_bytes((tmp_path / "keys.db").read_bytes())
    volume.chmod(0o500)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    ring = KeyRing(volume)
    assert ring.find(secret)
    assert os.listdir(volume) == ["keys.db"]
    _, other = file.create("other")
    (volume / "keys.db").write_bytes((tmp_path / "keys.db").read_bytes())
    assert ring.find(other)
    ring.close()
    volume.chmod(0o700)


def run(*arguments, folder):
    return CliRunner().invoke(main, [*map(str, arguments), "--state-dir", str(folder)])


def test_the_command_makes_lists_rotates_and_revokes(tmp_path):
    made = run("keys", "create", "team", "--models", "a,b", "--tokens-per-day", 5, folder=tmp_path)
    secret = made.stdout.strip()
    id = keys.key_id(secret)
    assert made.stderr == f"key {id} (team); it cannot be shown again\n"
    row = json.loads(run("keys", "list", "--json", folder=tmp_path).stdout)
    assert row["id"] == id
    assert (row["models"], row["tokens_per_day"], row["state"]) == (["a", "b"], 5, "active")
    assert secret not in run("keys", "list", folder=tmp_path).output
    rotated = run("keys", "rotate", "team", "--grace", "1h", "--json", folder=tmp_path)
    assert json.loads(rotated.stdout)["secret"] != secret
    assert run("keys", "revoke", id, folder=tmp_path).stderr == f"revoked {id} (team)\n"
    listed = run("keys", "list", folder=tmp_path).stdout
    assert "revoked" in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "x", "--expires", "2020-01-01"), "--expires: 2020-01-01 is in the past."),
        (("create", "x", "--expires", "soon"), "'soon' is not a duration; expected one like 30m"),
        (("create", "x", "--tokens-per-day", "0"), "0 is not in the range x>=1"),
        (("revoke", "nobody"), "there is no key `nobody`"),
    ],
)
def test_wrong_usage_of_the_command(tmp_path, arguments, message):
    result = run("keys", *arguments, folder=tmp_path)
    assert message in result.stderr
    assert result.exit_code in (1, 2)


def test_two_keys_of_one_name_are_told_apart_by_id(file):
    file.create("team")
    file.create("team")
    with pytest.raises(InputError, match="2 keys are called `team`; give an id: "):
        file.revoke("team")


def test_expiry_as_a_time_from_now(tmp_path):
    made = run("keys", "create", "team", "--expires", "2d", "--json", folder=tmp_path)
    assert json.loads(made.stdout)["expires"] > time.strftime("%Y-%m-%d")


def test_a_slot_is_never_used_again(file, tmp_path):
    first, _ = file.create("a")
    database = sqlite3.connect(tmp_path / "keys.db")
    with database:
        database.execute("DELETE FROM keys")
    database.close()
    assert file.create("b")[0].slot > first.slot


def damage(path, how):
    """Make a state file unusable."""
    if how == "directory":
        path.mkdir()
        return
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE other (x)")
    database.execute("CREATE TABLE filler AS SELECT randomblob(9000)")
    database.commit()
    database.close()
    whole = path.read_bytes()
    contents = {"garbage": b"garbage\n", "empty": b"", "truncated": whole[:5000], "other": whole}
    path.write_bytes(contents[how])


DAMAGES = ["garbage", "empty", "truncated", "other", "directory"]


@pytest.fixture
def no_wait(monkeypatch):
    monkeypatch.setattr(keys, "NEW_SECONDS", 0.0)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(
    "arguments",
    [("list",), ("create", "a"), ("revoke", "a"), ("rotate", "a"), ("usage",)],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.usefixtures("no_wait")
def test_every_command_says_in_a_line_that_the_keys_are_damaged(tmp_path, how, arguments):
    damage(tmp_path / "keys.db", how)
    if arguments[0] == "usage":
        result = CliRunner().invoke(main, ["usage", "--state-dir", str(tmp_path)])
    else:
        result = run("keys", *arguments, folder=tmp_path)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit)
    assert "keys.db cannot be used as the file of API keys" in result.stderr
    assert "remove" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.usefixtures("no_wait")
def test_a_server_does_not_start_with_damaged_keys(tmp_path, how):
    damage(tmp_path / "keys.db", how)
    with pytest.raises(InputError, match=r"cannot read the keys in .*keys\.db: .*Restore it"):
        keys.KeyRing(tmp_path)


@pytest.mark.parametrize("how", ["garbage", "empty", "other"])
def test_damaged_keys_never_open_a_running_server(tmp_path, how):
    _, secret = keys.KeyFile(tmp_path).create("a")
    ring = keys.KeyRing(tmp_path)
    (tmp_path / "new").mkdir()
    damage(tmp_path / "new" / "keys.db", how)
    (tmp_path / "new" / "keys.db").replace(tmp_path / "keys.db")
    ring.refresh()
    assert ring.key_needed
    assert ring.find(secret) is not None
    assert not ring.working
    assert ring.failures >= 1


def test_a_value_that_fits_no_column_is_damage(tmp_path):
    file = keys.KeyFile(tmp_path)
    file.create("a")
    with sqlite3.connect(file.path) as database:
        database.execute("UPDATE keys SET models = 'no JSON'")
    with pytest.raises(InputError, match="cannot be used as the file of API keys"):
        file.list()


@pytest.mark.parametrize("how", ["garbage", "directory"])
def test_damaged_usage_records_are_a_line(tmp_path, how):
    damage(tmp_path / "usage.db", how)
    result = CliRunner().invoke(main, ["usage", "--state-dir", str(tmp_path)])
    assert isinstance(result.exception, SystemExit)
    assert "usage.db cannot be used as the file of usage records" in result.stderr


@pytest.mark.parametrize("how", ["garbage", "truncated", "directory"])
def test_damaged_usage_records_are_counted_and_stop_no_server(tmp_path, how):
    damage(tmp_path / "usage.db", how)
    (tmp_path / "usage-1-dead.journal").mkdir()
    log = UsageLog(tmp_path)
    log.record("team", "minilm", 1, 7)
    assert not log.flush()
    assert log.totals("2026-12-01", "2026-12") == {}
    assert not log.working
    assert log.failures >= 2
    log.close()
