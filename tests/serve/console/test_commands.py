"""`gte users`, `gte teams`, `gte audit`: the same accounts as the pages."""

import json
import re

import pytest
from click.testing import CliRunner

from opengte.cli import main


@pytest.fixture
def gte(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENGTE_STATE_DIR", str(tmp_path))

    def run(*arguments, fails=False):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert (done.exit_code != 0) == fails, done.output
        return done

    return run


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_users_and_teams(gte, site, tmp_path):
    team = gte("teams", "create", "Search").stdout.strip()
    invited = ("users", "invite", "Ada", "--email", "ada@example.org", "--team", "Search")
    link = gte(*invited, "--owner", "--operator", "--url", "https://e.example/").stdout.strip()
    assert re.fullmatch(r"https://e\.example/console/link/[\w-]{43}", link)
    gte("users", "invite", "Bob")
    gte("teams", "add", team, "Bob")
    ada, bob = sorted(lines(gte("users", "list", "--json")), key=lambda row: row["name"])
    assert (ada["role"], bob["role"]) == ("operator", "member")
    found = next(row for row in lines(gte("teams", "list", "--json")) if row["id"] == team)
    assert found["members"] == "Ada (owner), Bob"
    gte("teams", "remove", "Search", "Bob")
    gte("users", "promote", "Bob")
    gte("users", "demote", "Bob")
    gte("users", "disable", bob["id"])
    assert "disabled" in gte("users", "list").stdout
    gte("users", "enable", "Bob")
    gte("users", "sign-out", "Bob")
    (again,) = lines(gte("users", "link", "ada@example.org", "--json"))
    assert again["user"] == ada["id"]
    actions = [row["action"] for row in lines(gte("audit", "--json", "--limit", 3))]
    assert actions == ["link", "sign-out-everywhere", "enable"]
    page = site(tmp_path).browser().submit(link.removeprefix("https://e.example"))
    assert "Users and teams" in page.text


def test_credit(gte):
    team = gte("teams", "create", "Search").stdout.strip()
    (row,) = lines(gte("credit", "grant", "Search", "2.5", "--note", "pilot", "--json"))
    assert (row["team"], row["granted"], row["left"]) == (team, "2.500000000", "2.500000000")
    gte("credit", "grant", team, "-1")
    (row,) = lines(gte("credit", "budget", team, "0.5", "--json"))
    assert (row["left"], row["budget"]) == ("0.500000000", "0.500000000")
    gte("credit", "budget", team, "none")
    assert "Search" in gte("credit", "list").stdout
    entries = lines(gte("credit", "ledger", team, "--json"))
    assert [entry["amount"] for entry in entries] == ["-1.000000000", "2.500000000"]
    assert "expected a number" in gte("credit", "grant", team, "x", fails=True).output
    gte("keys", "create", "k", "--team", team)
    assert lines(gte("keys", "list", "--json"))[0]["team"] == team


def test_unknown_names(gte):
    assert "gte users list" in gte("users", "disable", "nobody", fails=True).output
    assert "gte teams list" in gte("teams", "add", "nothing", "nobody", fails=True).output
    assert "no users" in gte("users", "list").output
    gte("users", "invite", " ", fails=True)
