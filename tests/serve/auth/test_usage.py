"""Usage: nothing lost, nothing counted twice, whatever dies."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from opengte.cli import main
from opengte.serve.auth import usage
from opengte.serve.auth.keys import KeyFile
from opengte.serve.auth.usage import UsageLog, read_usage

TODAY = time.strftime("%Y-%m-%d", time.gmtime())


def total(folder):
    return sum(used.tokens for used in read_usage(folder))


@pytest.fixture
def log(tmp_path):
    made = UsageLog(tmp_path)
    yield made
    made.close()


def test_what_is_recorded_is_read_at_once_and_stays_the_same_when_stored(log, tmp_path):
    log.record("k", "minilm", 2, 10)
    log.record("k", "minilm", 1, 5)
    log.record(None, "other", 1, 7)
    expected = [(TODAY, "", "other", 1, 1, 7), (TODAY, "k", "minilm", 2, 3, 15)]
    assert [tuple(vars(used).values()) for used in read_usage(tmp_path)] == expected
    assert log.flush()
    assert [tuple(vars(used).values()) for used in read_usage(tmp_path)] == expected
    log.record("k", "minilm", 1, 1)
    assert total(tmp_path) == 23
    log.flush()
    log.flush()
    assert total(tmp_path) == 23


def test_a_closed_log_leaves_only_the_table(tmp_path):
    log = UsageLog(tmp_path)
    log.record("k", "m", 1, 1)
    log.close()
    assert not list(tmp_path.glob("*.journal"))
    assert total(tmp_path) == 1
    database = sqlite3.connect(tmp_path / "usage.db")
    assert database.execute("SELECT count(*) FROM journals").fetchone() == (0,)
    database.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from opengte.serve.auth.usage import UsageLog
log = UsageLog(Path(sys.argv[1]))
for i in range(1000):
    log.record("k", "m", 1, 1)
    if i in (300, 600):
        log.flush()
print("written", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b"written\n"
    assert total(tmp_path) == 1000
    heir = UsageLog(tmp_path)
    heir.flush()  # takes over the journal
    assert total(tmp_path) == 1000
    heir.flush()
    heir.close()
    assert total(tmp_path) == 1000
    assert not list(tmp_path.glob("*.journal"))


def test_a_take_over_that_is_killed_half_way_counts_once(tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, timeout=60)
    heir = UsageLog(tmp_path)

    def die(journal):
        raise OSError("killed between the table and the file")

    with monkeypatch.context() as patch:
        patch.setattr(heir, "_remove_journal", die)
        assert not heir.flush()
    assert total(tmp_path) == 1000
    heir.close()
    assert total(tmp_path) == 1000


def test_the_journal_of_a_living_process_is_left_alone(log, tmp_path):
    other = UsageLog(tmp_path)
    other.record("k", "m", 1, 5)
    log.flush()
    assert len(list(tmp_path.glob("*.journal"))) == 2
    assert total(tmp_path) == 5
    other.close()


def repeating(stop, action):
    def repeat():
        while not stop.is_set():
            action()

    return threading.Thread(target=repeat)


def test_several_processes_and_threads_at_once(tmp_path):
    logs = [UsageLog(tmp_path) for _ in range(3)]
    stop = threading.Event()
    seen = []

    def record(log):
        for _ in range(300):
            log.record("k", "m", 1, 1)

    writers = [threading.Thread(target=record, args=(log,)) for log in logs]
    others = [repeating(stop, lambda: seen.append(total(tmp_path)))]
    others += [repeating(stop, log.flush) for log in logs]
    for thread in (*others, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in others:
        thread.join()
    for log in logs:
        log.close()
    assert total(tmp_path) == 900
    assert seen == sorted(seen)
    assert max(seen) <= 900


def test_a_long_journal_is_replaced(log, tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "ROTATE_BYTES", 100)
    before = [path.name for path in tmp_path.glob("*.journal")]
    for _ in range(20):
        log.record("k", "m", 1, 1)
    log.flush()
    after = [path.name for path in tmp_path.glob("*.journal")]
    assert len(after) == 1
    assert after != before
    log.record("k", "m", 1, 1)
    assert total(tmp_path) == 21


def test_a_torn_line_is_left_out(tmp_path):
    (tmp_path / "usage-1-x.journal").write_bytes(
        f"{TODAY}\tk\tm\t1\t5\n{TODAY}\tk\tm\tx\t5\ngarbage\n{TODAY}\tk\tm\t1\t9".encode()
    )
    assert total(tmp_path) == 5


def test_a_model_named_with_tabs_breaks_nothing(log, tmp_path):
    log.record("k", "a\tb\nc", 1, 3)
    assert [used.model for used in read_usage(tmp_path)] == ["a b c"]


def test_a_full_disk_stops_nothing_and_loses_nothing_once_there_is_room(log, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    log.record("k", "m", 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        patch.setattr(usage, "open_usage_database", full)
        log.record("k", "m", 1, 2)
        assert not log.flush()
        log.record("k", "m", 1, 4)
        assert not log.flush()
        assert not log.working
        assert log.failures >= 4
    assert log.flush()
    assert log.working
    assert total(tmp_path) == 7


def test_a_write_that_the_disk_takes_half_of_leaves_no_half_line(log, tmp_path, monkeypatch):
    whole = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: whole(descriptor, line[:7]))
        log.record("k", "m", 1, 2)
    log.record("k", "m", 1, 4)
    assert log.failures == 1
    assert total(tmp_path) == 4  # until the next flush: the journal could not take the first
    log.flush()
    assert total(tmp_path) == 6


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    log = UsageLog(tmp_path / "file" / "below")
    log.record("k", "m", 1, 2)
    assert not log.flush()
    assert not log.working
    log.close()


@pytest.fixture
def used(tmp_path):
    key, _ = KeyFile(tmp_path).create("team")
    database = usage.open_usage_database(tmp_path)
    with database:
        rows = [
            ("2026-10-31", key.id, "a", 1, 1, 1_000_000),
            ("2026-11-01", key.id, "a", 1, 2, 2_000_000),
            ("2026-11-02", key.id, "b", 3, 4, 500_000),
            ("2026-11-02", "", "b", 5, 6, 7),
        ]
        database.executemany("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?)", rows)
    database.close()
    return tmp_path, key.id


def gte(folder, *arguments):
    return CliRunner().invoke(main, ["usage", "--state-dir", str(folder), *arguments])


def test_the_command_prints_rows_and_a_sum(used):
    folder, id = used
    result = gte(folder, "--since", "2026-11")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["day", "key", "name", "model", "requests", "texts", "tokens"]
    assert lines[1].split() == ["2026-11-01", id, "team", "a", "1", "2", "2,000,000"] or (
        lines[2].split() == ["2026-11-02", id, "team", "b", "3", "4", "500,000"]
    )
    assert len(lines) == 4
    assert result.stderr == "9 requests, 12 texts, 2,500,007 tokens\n"


def test_the_command_with_prices_as_json(used):
    folder, id = used
    options = ("--by", "month,key", "--price", "0.1", "--price", "b=2", "--key", "team", "--json")
    rows = [json.loads(line) for line in gte(folder, *options).stdout.splitlines()]
    assert rows == [
        {
            "month": "2026-10",
            "key": id,
            "name": "team",
            "requests": 1,
            "texts": 1,
            "tokens": 1_000_000,
            "cost": 0.1,
        },
        {
            "month": "2026-11",
            "key": id,
            "name": "team",
            "requests": 4,
            "texts": 6,
            "tokens": 2_500_000,
            "cost": 1.2,
        },
    ]


def test_the_command_as_csv(used):
    folder, _ = used
    assert gte(folder, "--by", "model", "--csv", "--until", "2026-11-01").stdout == (
        "model,requests,texts,tokens\na,2,3,3000000\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--by", "week"), "'week' is not one of day, month, key, model"),
        (("--price", "x"), "--price: 'x' is not a number"),
        (("--since", "yesterday"), "'yesterday' is not a date"),
    ],
)
def test_wrong_usage_of_the_command(used, options, message):
    result = gte(used[0], *options)
    assert message in result.stderr
    assert result.exit_code == 2


def test_the_command_without_records(tmp_path):
    result = gte(tmp_path)
    assert (result.stdout, result.stderr, result.exit_code) == ("", "no usage recorded\n", 0)
