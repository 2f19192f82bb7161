"""Keys, credit and use: exact after any death, refused in each protocol's words."""

import random
import re
import subprocess
import sys
import threading
from decimal import Decimal

import pytest

from opengte.errors import CreditError, InputError
from opengte.serve.auth.keys import KeyFile
from opengte.serve.console.accounts import Accounts
from opengte.serve.console.credit_log import JOURNALS, CreditLog, parse_calls
from opengte.serve.console.database import DatabaseError, open_database
from opengte.serve.console.ledger import UNIT, ChargedCall, Ledger, amount_of, cost_of
from tests.support.stores import postgres

ATTACK = "=1+1<script>alert(1)</script>"


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request, tmp_path):
    url = postgres() if request.param == "postgres" else None
    database = open_database(url, tmp_path)
    if url:  # of a database that other tests use
        tables = ("credit", "leases", "journals", "uses", "calls")
        database.run(lambda e: [e(f"TRUNCATE {t}") for t in tables])
    yield Ledger(database)
    database.close()


def log_of(ledger, folder, block=1000, price="0.001"):
    return CreditLog(ledger, folder, lambda model: Decimal(price), block, "EUR")


def call(team="t", amount=10, key="k", model="m", at=1_800_000_000.0):
    return ChargedCall(at, team, key, model, 1, amount, amount, 5)


def consistent(ledger, *teams):
    """Assert that what is leased is the sum of the leases, and used that of the ledger."""
    for team in teams:
        balance = ledger.balance(team)
        leases = ledger.database.run(
            lambda e, t=team: e("SELECT coalesce(sum(amount), 0) FROM leases WHERE team = ?", (t,))
        )
        assert balance.leased == leases[0][0]
        assert balance.used == sum(use.amount for use in ledger.uses(team))


# ---------------------------------------------------------------- the ledger


def test_amounts():
    assert amount_of("5") == 5 * UNIT
    assert cost_of(1_000_000, Decimal("0.02")) == amount_of("0.02")
    assert cost_of(1, Decimal("0.001")) == 1
    for text in ("x", "", "nan", "1e99", "inf"):
        with pytest.raises(InputError, match="expected a number"):
            amount_of(text)


def test_leases_and_use(ledger):
    assert ledger.lease("j", "t", 100, 1) == 0  # nothing was granted
    ledger.grant("t", 250, "test")
    assert [ledger.lease("j", "t", 100, 1) for _ in range(4)] == [100, 100, 50, 0]
    assert ledger.lease("j", "t", 100, 60) == 0
    ledger.ship("j", 0, 80, [call(amount=30), call(amount=20)])
    balance = ledger.balance("t")
    assert (balance.used, balance.leased, balance.left) == (50, 200, 200)
    ledger.ship("j", 0, 80, [call(amount=30), call(amount=20)])  # told again
    assert ledger.balance("t") == balance
    assert ledger.shipped("j") == 80
    ledger.release("j")
    assert ledger.balance("t").leased == 0
    assert ledger.lease("k", "t", 1000, 1) == 200
    kinds = [(entry.kind, entry.amount) for entry in ledger.entries("t")[:2]]
    assert set(kinds) == {("use", -50), ("grant", 250)}
    consistent(ledger, "t")


def test_a_budget_of_a_month_and_its_alerts(ledger):
    ledger.grant("t", 1000, "test")
    ledger.set_budget("t", 100, "test")
    assert ledger.lease("j", "t", 500, 1) == 100
    alerts = [ledger.ship("j", n, n + 1, [call(amount=20)]) for n in range(5)]
    assert alerts == [[], [], ["t"], ["t"], ["t"]]  # at 60, 80 and 100 %
    assert ledger.balance("t").percent == 100
    assert ledger.lease("j", "t", 500, 1) == 0
    assert ledger.balance("t").left == 0
    assert ledger.balance("t", now=4e9).left == 100  # of another month
    ledger.set_budget("t", None, "test")
    assert ledger.lease("j", "t", 500, 1) == 500
    log = Accounts(ledger.database).audit_log()
    assert sum(entry.action == "alert" for entry in log if entry.subject == "t") >= 3


def test_a_welcome_is_given_once(ledger):
    team = f"t{random.random()}"
    for _ in range(3):
        ledger.welcome(team, 5)
    assert ledger.balance(team).granted == 5


def test_the_ledger_cannot_be_changed(ledger):
    ledger.grant("t", 7, "test")
    before = ledger.entries("t")
    for statement in ("DELETE FROM ledger", "UPDATE ledger SET amount = 1"):
        try:
            ledger.database.run(lambda execute, s=statement: execute(s))
        except DatabaseError as error:
            assert "append-only" in str(error)
    assert ledger.entries("t") == before


def test_a_race_on_the_last_credit(ledger):
    ledger.grant("t", 1050, "test")
    got: list[int] = []

    def lease(name):
        for _ in range(30):
            got.append(ledger.lease(name, "t", 10, 10))

    threads = [threading.Thread(target=lease, args=(f"j{n}",)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(got) == 1050
    assert ledger.balance("t").leased == 1050
    consistent(ledger, "t")


# ---------------------------------------------------------------- a process's leases and journal


def test_charges_are_booked_and_leases_freed(ledger, tmp_path):
    ledger.grant("t", 5000, "test")
    log = log_of(ledger, tmp_path / "s")
    for _ in range(10):
        reserved = log.take("t", "m", 100)
        log.charge("t", "k", "m", 60, 1, reserved, 0.01)
    assert log.take("t", "m", 50) == 50
    log.charge("t", "k", "m", 0, 0, 50, 0.01)  # it failed
    log.flush()
    (use,) = ledger.uses("t")
    assert (use.requests, use.tokens, use.amount) == (10, 600, 600)
    consistent(ledger, "t")
    log.close()
    balance = ledger.balance("t")
    assert (balance.leased, balance.used, balance.left) == (0, 600, 4400)
    assert list((tmp_path / "s").glob(JOURNALS)) == []


def test_a_request_that_would_overdraw_is_refused_with_what_is_left(ledger, tmp_path):
    ledger.grant("t", 150, "test")
    log = log_of(ledger, tmp_path / "s", block=100)
    reserved = log.take("t", "m", 100)
    with pytest.raises(CreditError, match=r"costs about 0 EUR, and 0 are left"):
        log.take("t", "m", 60)
    log.give_back("t", reserved)
    assert log.take("t", "m", 150) == 150
    for team in ("t", "nobody"):
        with pytest.raises(CreditError):
            log.take(team, "m", 1)
    log.close()


def test_a_zero_price_and_an_underestimate(ledger, tmp_path):
    ledger.grant("t", 100, "test")
    log = log_of(ledger, tmp_path / "s", block=10)
    log.charge("t", "k", "m", 30, 1, log.take("t", "m", 10), 0.0)  # three times the estimate
    assert log.take("t", "m", 70) == 70  # the lease made up for it
    with pytest.raises(CreditError):
        log.take("t", "m", 1)
    log.close()


class Away:
    """A ledger whose database is away while `away` is true; it fails after the commit, too."""

    def __init__(self, ledger):
        self.ledger, self.away, self.late = ledger, False, False

    def __getattr__(self, name):
        def ask(*arguments):
            if self.away:
                raise DatabaseError("away")
            result = getattr(self.ledger, name)(*arguments)
            if self.late:
                raise DatabaseError("the answer did not come")
            return result

        return ask


def test_while_the_database_is_away_one_block_is_lent(ledger, tmp_path):
    ledger.grant("t", 5000, "test")
    behind = Away(ledger)
    log = log_of(behind, tmp_path / "s", block=100)
    log.charge("t", "k", "m", 100, 1, log.take("t", "m", 100), 0.0)
    behind.away = True
    for _ in range(3):  # flushes do not renew what is lent
        log.flush()
    for _ in range(10):
        log.charge("t", "k", "m", 10, 1, log.take("t", "m", 10), 0.0)
    for _ in range(3):
        log.flush()
        with pytest.raises(CreditError):
            log.take("t", "m", 10)
    assert log.failures > 0
    behind.away = False
    log.flush()
    assert ledger.balance("t").used == 200
    assert log.take("t", "m", 10) == 10
    log.close()
    assert ledger.balance("t").leased == 0
    consistent(ledger, "t")


def test_a_booking_whose_answer_was_lost_is_not_repeated_and_nothing_is_left_out(ledger, tmp_path):
    ledger.grant("t", 5000, "test")
    behind = Away(ledger)
    log = log_of(behind, tmp_path / "s")
    log.charge("t", "k", "m", 100, 1, log.take("t", "m", 100), 0.0)
    behind.late = True
    log.flush()
    log.charge("t", "k", "m", 11, 1, log.take("t", "m", 11), 0.0)
    behind.late = False
    log.flush()
    assert ledger.balance("t").used == 111
    log.close()
    consistent(ledger, "t")


KILLED = """
import os, random, sys
from decimal import Decimal
from pathlib import Path
from opengte.serve.console.credit_log import CreditLog
from opengte.serve.console.database import open_database
from opengte.serve.console.ledger import Ledger

folder, url, seed = Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
log = CreditLog(Ledger(open_database(url, folder)), folder, lambda m: Decimal("0.001"), 500, "EUR")
chance = random.Random(seed)
print("ready", flush=True)
while True:
    tokens = chance.randint(1, 90)
    team = f"t{chance.randint(0, 3)}"
    log.charge(team, "k", "m", tokens, 1, log.take(team, "m", tokens), 0.001)
    os.write(1, f"{team} {tokens}\\n".encode())  # the answer
    if chance.random() < 0.05:
        log.flush()
"""


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [6])
def test_ledger_and_answers_agree_after_kills(ledger, tmp_path, request, rounds):
    url = postgres() if "postgres" in request.node.callspec.id else ""
    teams = [f"t{n}" for n in range(4)]
    for team in teams:
        ledger.grant(team, 10**9, "test")
    answered = dict.fromkeys(teams, 0)
    unanswered = 0
    for seed in range(rounds):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), url, str(seed)],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(random.Random(seed).randint(50, 400))]
        process.kill()
        rest = process.stdout.read().split(b"\n")[:-1]
        process.wait()
        process.stdout.close()
        for line in (*lines, *rest):
            if line.strip() != b"ready":
                team, tokens = line.split()
                answered[team.decode()] += int(tokens)
        unanswered += 1  # at most one was charged and its answer not written
    survivor = log_of(ledger, tmp_path)
    survivor.flush()
    survivor.close()
    used = {team: ledger.balance(team).used for team in teams}
    assert all(used[team] >= answered[team] for team in teams)  # nothing answered is lost
    assert sum(used.values()) - sum(answered.values()) <= 90 * unanswered
    assert all(ledger.balance(team).leased == 0 for team in teams)
    assert list(tmp_path.glob(JOURNALS)) == []
    consistent(ledger, *teams)


def test_half_lines_are_left_out():
    line = "1.5\tt\tk\tm\t1\t2\t3\t4\n"
    assert parse_calls((line + "1.5\tt\tk").encode()) == [
        ChargedCall(1.5, "t", "k", "m", 1, 2, 3, 4)
    ]


# ---------------------------------------------------------------- requests

REQUESTS = {
    "openai": ("/v1/embeddings", {"input": "one two"}),
    "voyage": ("/v1/embeddings", {"input": "one two", "truncation": True}),
    "cohere": (
        "/v2/embed",
        {"model": "fake", "texts": ["one two"], "input_type": "search_query",
         "embedding_types": ["float"]},
    ),
    "jina": ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    "tei": ("/embed", {"inputs": "one two"}),
    "ollama": ("/api/embed", {"model": "fake", "input": "one two"}),
    "llamacpp": ("/embedding", {"content": "one two"}),
}  # fmt: skip


@pytest.mark.parametrize("protocol", REQUESTS)
def test_the_refusal_of_each_protocol(site, protocol):
    one = site(currency="EUR")
    path, body = REQUESTS[protocol]
    http = one.key("t")
    answer = http.post(path, json=body)
    assert answer.status_code == 429
    assert "are left" in answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    one.ledger.grant("t", UNIT, "test")
    assert http.post(path, json=body).status_code == 200
    one.console.credit.flush()
    assert one.ledger.balance("t").used > 0


def test_a_request_costs_its_tokens_at_the_price_and_a_failed_one_nothing(site):
    one = site(currency="EUR", price=("fake=0.02", "1"))
    one.ledger.grant("t", UNIT, "test")
    http = one.key("t")
    tokens = http.post("/v1/embeddings", json={"input": "one two"}).json()["usage"]["total_tokens"]
    assert http.post("/v1/embeddings", json={"input": "!engine"}).status_code >= 500
    assert http.post("/v1/embeddings", json={"input": "x", "model": "none"}).status_code == 404
    one.console.credit.flush()
    assert one.ledger.balance("t").used == cost_of(tokens, Decimal("0.02"))
    (seen,) = one.ledger.calls("t")
    assert (seen.model, seen.texts, seen.tokens) == ("fake", 1, tokens)


def test_a_refusal_by_a_limit_gives_the_credit_back(site):
    from opengte.serve.auth.keys import RateLimits

    one = site()
    one.ledger.grant("t", UNIT, "test")
    http = one.key("t", limits=RateLimits(tokens_per_day=1))
    assert http.post("/v1/embeddings", json={"input": "one two three"}).status_code == 429
    one.console.credit.close()
    assert one.ledger.balance("t").left == UNIT
    one.console.credit = type("Closed", (), {"close": lambda self: None})()


def test_keys_without_a_team_cost_nothing(site):
    one = site()
    assert one.key(None).post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_the_api(site):
    one = site(currency="EUR", price=("2",))
    one.ledger.grant("t", 3 * UNIT, "test")
    http, other, free = one.key("t"), one.key("u"), one.key(None)
    http.post("/v1/embeddings", json={"input": "one two"})
    one.console.credit.flush()
    me = http.get("/v1/me").json()
    assert (me["credit"]["team"], me["credit"]["granted"]) == ("t", 3.0)
    assert me["credit"]["left"] < 3
    (row,) = http.get("/v1/usage").json()["data"]
    assert row["key"] == me["key"]["id"]
    assert http.get("/v1/usage?since=9999-01-01").json() == {"data": []}
    assert http.get("/v1/usage?since=x").status_code == 400
    assert other.get("/v1/usage").json() == free.get("/v1/usage").json() == {"data": []}
    assert [key["id"] for key in http.get("/v1/keys").json()["data"]] == [me["key"]["id"]]
    assert me["key"]["id"] not in other.get("/v1/keys").text + free.get("/v1/keys").text
    assert free.get("/v1/me").json()["credit"] is None
    estimate = http.post("/v1/estimate", json={"model": "fake", "tokens": 500_000}).json()
    assert (estimate["cost"], estimate["tokens"]) == (1.0, 500_000)
    texts = {"model": "fake", "input": ["one two", "three"]}
    assert http.post("/v1/estimate", json=texts).json()["tokens"] == 7
    for body in ({}, {"model": "fake"}, {"model": "fake", "tokens": -1}, {"model": 1}, []):
        assert http.post("/v1/estimate", json=body).status_code == 400
    assert http.post("/v1/estimate", content="x").status_code == 400
    unknown = {"authorization": "Bearer gte_x_y"}
    for path in ("/v1/me", "/v1/usage", "/v1/keys"):
        assert http.get(path, headers=unknown).status_code == 401
    document = http.get("/openapi.json").json()["paths"]
    assert {"/v1/me", "/v1/usage", "/v1/keys", "/v1/estimate"} <= set(document)


# ---------------------------------------------------------------- pages


def made(page):
    return re.search(r'id="new-key">(gte_\w+)<', page.text)[1]


def test_a_member_makes_uses_rotates_and_revokes_a_key(site):
    one = site(free_credit=1.0, currency="EUR")
    browser, user = one.signed_in()
    assert one.ledger.balance(user.id).granted == UNIT
    limits = {"models": "fake", "requests_per_minute": "100", "days": "2"}
    page = browser.submit("/console/keys", name="mine", team=user.id, **limits)
    secret = made(page)
    assert secret not in browser.get("/console/keys").text
    one.authorizer.keys.refresh()

    def embed(with_key):
        headers = {"authorization": f"Bearer {with_key}"}
        return one.browser().post("/v1/embeddings", json={"input": "a b"}, headers=headers)

    assert embed(secret).status_code == 200
    id = secret.split("_")[1]
    key = KeyFile(one.authorizer.keys.path.parent).find(id)
    assert (key.models, key.limits.requests_per_minute, key.maker) == (("fake",), 100, user.id)
    newer = made(browser.submit(f"/console/keys/{id}", "/console/keys", do="rotate"))
    one.authorizer.keys.refresh()
    assert embed(newer).status_code == embed(secret).status_code == 200  # a day of grace
    browser.submit(f"/console/keys/{id}", "/console/keys", do="revoke")
    one.authorizer.keys.refresh()
    assert embed(newer).status_code == 401
    one.console.credit.flush()
    page = browser.get("/console/use")
    assert "<rect" in page.text
    assert "fake" in page.text
    lines = browser.get(f"/console/use/{user.id}/csv").text.splitlines()
    assert lines[0] == "day,key,model,requests,tokens,cost"
    assert lines[1].split(",")[1:4] == [id, "fake", "3"]
    actions = [entry.action for entry in one.accounts.audit_log(3)]
    assert actions == ["revoke-key", "rotate-key", "create-key"]


def test_a_key_of_one_team_is_no_use_for_another(site):
    one = site()
    ada, first = one.signed_in("Ada")
    eve, second = one.signed_in("Eve")
    secret = made(ada.submit("/console/keys", name="mine", team=first.id))
    id = secret.split("_")[1]
    assert id not in eve.get("/console/keys").text
    for work in ("rotate", "revoke"):
        answer = eve.submit(f"/console/keys/{id}", "/console/keys", do=work)
        unknown = eve.submit("/console/keys/nothing1", "/console/keys", do=work)
        assert (answer.status_code, unknown.status_code) == (403, 403)
        assert "no such key, or it is of another team" in answer.text
    assert eve.submit("/console/keys", name="x", team=first.id).status_code == 403
    for path in (f"/console/use/{first.id}", f"/console/use/{first.id}/csv", "/console/use/no"):
        assert eve.get(path).status_code == 403
    answer = eve.submit(f"/console/use/{second.id}", "/console/keys", amount="5")
    assert answer.status_code == 403  # members grant nothing, to themselves either
    assert one.ledger.balance(second.id).granted == 0


def test_members_of_a_team_see_its_keys_and_owners_revoke_them(site):
    one = site()
    ada, owner = one.signed_in("Ada")
    bob, member = one.signed_in("Bob")
    team = one.accounts.create_team("Search", "test")
    one.accounts.set_member(team, owner.id, True, "test")
    one.accounts.set_member(team, member.id, False, "test")
    id = made(ada.submit("/console/keys", name="of Ada", team=team)).split("_")[1]
    assert "of Ada" in bob.get("/console/keys").text
    assert bob.submit(f"/console/keys/{id}", "/console/keys", do="revoke").status_code == 403
    of_bob = made(bob.submit("/console/keys", name="of Bob", team=team)).split("_")[1]
    ada.submit(f"/console/keys/{of_bob}", "/console/keys", do="revoke")
    assert KeyFile(one.authorizer.keys.path.parent).find(of_bob).revoked is not None


def test_keys_of_a_disabled_user_are_revoked(site):
    one = site()
    boss, _ = one.signed_in("Boss", operator=True)
    eve, user = one.signed_in("Eve")
    id = made(eve.submit("/console/keys", name="x", team=user.id)).split("_")[1]
    boss.submit(f"/console/users/{user.id}", "/console/users", do="disable")
    assert KeyFile(one.authorizer.keys.path.parent).find(id).revoked is not None


@pytest.mark.parametrize(
    "fields",
    [{"name": " "}, {"days": "0"}, {"days": "-1"}, {"days": "²"}, {"tokens_per_minute": "x"},
     {"requests_per_minute": "9" * 30}],
)  # fmt: skip
def test_bad_fields_of_a_key(site, fields):
    browser, user = site().signed_in()
    fields = {"name": "x", "team": user.id, **fields}
    assert browser.submit("/console/keys", **fields).status_code == 400


def test_operators_grant_credit_and_set_a_budget(site):
    one = site(currency="EUR")
    boss, me = one.signed_in("Boss", operator=True)
    path = f"/console/use/{me.id}"
    assert "2.500000" in boss.submit(path, amount="2.5", note="pilot", do="grant").text
    page = boss.submit(path, amount="2", do="budget").text
    assert "of a budget of 2.00" in page
    one.ledger.ship("j", 0, 1, [call(me.id, UNIT)])
    assert "of the month's budget is used" in re.sub(r"&#39;", "'", boss.get(path).text)
    assert boss.submit(path, amount="x", do="grant").status_code == 400
    assert "no budget" in boss.submit(path, amount="", do="budget").text


def test_stored_scripts_and_formulas_stay_text(site):
    one = site()
    boss, me = one.signed_in("Boss", operator=True)
    boss.submit("/console/keys", name=ATTACK, team=me.id)
    one.ledger.grant(me.id, 1, "test", ATTACK)
    one.ledger.ship("j", 0, 1, [call(me.id, 1, model=ATTACK, key=ATTACK)])
    for path in ("/console/keys", "/console/use", "/console/audit"):
        assert "<script>alert" not in boss.get(path).text
    row = boss.get(f"/console/use/{me.id}/csv").text.splitlines()[1]
    assert f"'{ATTACK}" in row
