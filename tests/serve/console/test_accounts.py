"""Accounts: sign-in, sessions, roles and teams, and the attacks on them."""

import re
import time

import pytest

from opengte.errors import InputError, LimitError
from opengte.serve.console.accounts import Accounts
from opengte.serve.console.database import DatabaseError, SqliteDatabase, open_database
from opengte.serve.console.provider import mapped_teams
from opengte.serve.console.sessions import COOKIE, LIFETIME, Sessions, Throttle
from tests.support.oidc_provider import CLIENT, SECRET, client_signed, provider
from tests.support.stores import postgres

ATTACK = '"><script>alert(1)</script>'


@pytest.fixture(scope="module")
def oidc():
    with provider() as one:
        yield one


@pytest.fixture
def at_provider(site, oidc):
    """A console that signs in at a provider, which tells the truth at first."""
    oidc.lies, oidc.document = {}, {}
    oidc.signing_key, oidc.algorithm = oidc.key, "RS256"
    oidc.user = {"sub": "1", "name": "Ada", "email": "ada@example.org", "groups": ["search"]}
    return site(
        oidc_issuer=oidc.issuer,
        oidc_client_id=CLIENT,
        oidc_client_secret=SECRET,
        oidc_team=("search=Search team",),
        oidc_operators=("staff",),
    )


def sign_in(browser):
    """Follow the redirects of a sign-in; the provider is not of this test client."""
    import httpx

    there = browser.get("/console/provider", follow_redirects=False)
    assert there.status_code == 302, there.text
    back = httpx.get(there.headers["location"])
    return browser.get(back.headers["location"])


# ---------------------------------------------------------------- links


def test_a_link_signs_in_once(site):
    one = site()
    user = one.accounts.create_user("Ada")
    link = f"/console/link/{one.accounts.create_link(user.id)}"
    browser = one.browser()
    for _ in range(2):  # looking at it, as a preview does, does not use it
        assert browser.get(link).status_code == 200
    assert "Ada" in browser.submit(link).text
    other = one.browser()
    answer = other.submit(link)
    assert answer.status_code == 403
    assert "was used" in answer.text
    assert other.get("/console/account").url.path == "/console/sign-in"


@pytest.mark.parametrize("token", ["nothing", "x" * 5000, "%00", "a/b"])
def test_unknown_links(site, token):
    browser = site().browser()
    assert browser.submit(f"/console/link/{token}", "/console/link/x").status_code in (403, 404)


def test_a_link_ends_and_one_race_is_won_once(site):
    accounts = site().accounts
    user = accounts.create_user("Ada")
    token = accounts.create_link(user.id, days=1)
    assert accounts.redeem(token, now=time.time() + 86401) is None
    assert [accounts.redeem(token) is not None for _ in range(3)] == [True, False, False]
    assert accounts.redeem("nothing") is None


# ---------------------------------------------------------------- sessions


def test_the_cookie(site):
    browser, _ = site().signed_in()
    page = browser.get("/console/account")
    cookie = page.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie
    over_tls = site().browser(base_url="https://testserver").get("/console/sign-in")
    assert "secure" in over_tls.headers["set-cookie"].lower()


def test_a_session_that_was_there_before_the_sign_in_is_not_used(site):
    one = site()
    browser = one.browser()
    browser.get("/console/sign-in")
    planted = browser.cookies[COOKIE]
    user = one.accounts.create_user("Ada")
    browser.submit(f"/console/link/{one.accounts.create_link(user.id)}")
    assert browser.cookies[COOKIE] != planted
    thief = one.browser(cookies={COOKIE: planted})
    assert thief.get("/console/account").url.path == "/console/sign-in"


def test_sign_out_everywhere_ends_the_sessions_of_other_browsers_and_links(site):
    one = site()
    browser, user = one.signed_in()
    other = one.browser()
    other.submit(f"/console/link/{one.accounts.create_link(user.id)}")
    waiting = one.accounts.create_link(user.id)
    browser.submit("/console/sign-out-everywhere", "/console/account")
    for each in (browser, other):
        assert each.get("/console/account").url.path == "/console/sign-in"
    assert one.accounts.redeem(waiting) is None


def test_sign_out(site):
    browser, _ = site().signed_in()
    assert browser.submit("/console/sign-out", "/console/account").url.path == "/console/sign-in"
    assert browser.get("/console/account").url.path == "/console/sign-in"


def test_forged_and_old_cookies(site, monkeypatch):
    one = site()
    browser, user = one.signed_in()
    cookie = browser.cookies[COOKIE]
    for forged in (cookie[:-2], cookie + "x", "x", "", cookie.swapcase()):
        thief = one.browser(cookies={COOKIE: forged})
        assert thief.get("/console/account").url.path == "/console/sign-in"
    elsewhere = site().browser(cookies={COOKIE: cookie})  # another server's secret
    assert elsewhere.get("/console/account").url.path == "/console/sign-in"
    later = time.time() + LIFETIME + 5
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: later)
    old = one.browser(cookies={COOKIE: cookie})
    assert old.get("/console/account").url.path == "/console/sign-in"


def test_disabled_users_are_out(site):
    one = site()
    browser, user = one.signed_in()
    one.accounts.set_disabled(user.id, True, "test")
    assert browser.get("/console/account").url.path == "/console/sign-in"
    assert one.accounts.redeem(one.accounts.create_link(user.id)) is None


# ---------------------------------------------------------------- forgery


def changes(one):
    """Return every route that changes something."""
    routes = [r for r in one.console.routes() if r.path.startswith("/console")]
    return [route.path for route in routes if "POST" in route.methods]


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({}, {}),
        ({"csrf": "0" * 64}, {}),
        ({"csrf": "é"}, {}),
        ({"csrf": "right"}, {"origin": "https://evil.example"}),
        ({"csrf": "right"}, {"origin": "null"}),
        ({"csrf": "right"}, {"sec-fetch-site": "cross-site"}),
        ({"csrf": "right"}, {"sec-fetch-site": "same-site"}),
    ],
)
def test_no_change_without_the_forms_token(site, fields, headers):
    one = site()
    browser, _ = one.signed_in(operator=True)
    if fields.get("csrf") == "right":
        fields = {"csrf": browser.token("/console/account")}
    paths = changes(one)
    assert len(paths) >= 10
    for path in paths:
        answer = browser.post(re.sub(r"{\w+}", "x", path), data=fields, headers=headers)
        assert answer.status_code == 403, path
        assert "another page" in answer.text


def test_the_token_of_another_session_is_no_use(site):
    one = site()
    browser, _ = one.signed_in("Ada")
    other, _ = one.signed_in("Eve")
    token = other.token("/console/account")
    assert browser.post("/console/sign-out", data={"csrf": token}).status_code == 403


def test_changes_are_throttled_and_large_forms_refused(site):
    browser = site().browser()
    statuses = [browser.post("/console/link/x", data={}).status_code for _ in range(70)]
    assert statuses[0] == 403
    assert statuses[-1] == 429
    assert site().browser().post("/console/link/x", content=b"a" * 70_000).status_code == 400


def test_the_throttle_forgets(site):
    class Request:
        client = None

    throttle = Throttle(2)
    throttle.take(Request, 0.0)
    throttle.take(Request, 0.0)
    with pytest.raises(LimitError):
        throttle.take(Request, 0.0)
    throttle.take(Request, 31.0)


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example"])
def test_no_open_redirect(at_provider, target):
    browser = at_provider.browser()
    for name in ("next", "url", "redirect_uri", "return_to"):
        there = browser.get("/console/provider", params={name: target}, follow_redirects=False)
        assert there.headers["location"].startswith(at_provider.settings.oidc_issuer)
        assert "evil" not in there.headers["location"]
    answer = at_provider.browser().get(f"/console/callback?next={target}", follow_redirects=False)
    assert "evil" not in answer.headers.get("location", "")


# ---------------------------------------------------------------- the provider


def test_signing_in_at_a_provider(at_provider, oidc):
    browser = at_provider.browser()
    answer = sign_in(browser)
    assert answer.url.path == "/console/account"
    assert "Ada" in answer.text
    assert "Search team" in answer.text
    assert "Audit log" not in answer.text
    (user,) = at_provider.accounts.users()
    assert (user.subject, user.email, user.operator) == ("1", "ada@example.org", False)
    oidc.user = {"sub": "1", "name": "Ada L.", "email": "ada@example.org", "groups": ["staff"]}
    answer = sign_in(at_provider.browser())
    assert "Search team" not in answer.text
    (user,) = at_provider.accounts.users()  # the same one
    assert (user.name, user.operator) == ("Ada L.", True)


def test_a_provider_that_does_not_say_who_is_an_operator_changes_none(site):
    accounts = site().accounts
    user = accounts.provider_user("i", "s", "Ada", "", [], None)
    accounts.set_operator(user.id, True, "test")
    assert accounts.provider_user("i", "s", "Ada", "", [], None).operator


@pytest.mark.parametrize(
    "lie",
    [
        {"aud": "another-client"},
        {"aud": ["another-client"]},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"nbf": int(time.time()) + 3600},
        {"sub": None},
    ],
)
def test_a_provider_that_lies(at_provider, oidc, lie):
    oidc.lies = lie
    answer = sign_in(at_provider.browser())
    assert answer.status_code == 403
    assert at_provider.accounts.users() == []


def test_clocks_may_differ_by_two_minutes(at_provider, oidc):
    now = int(time.time())
    oidc.lies = {"iat": now + 60, "nbf": now + 60, "exp": now - 60}
    assert sign_in(at_provider.browser()).status_code == 200


def test_tokens_of_other_keys(at_provider, oidc):
    from joserfc.jwk import RSAKey

    oidc.signing_key = RSAKey.generate_key(2048)
    assert sign_in(at_provider.browser()).status_code == 403
    oidc.signing_key, oidc.algorithm = client_signed(), "HS256"
    assert sign_in(at_provider.browser()).status_code == 403


def test_a_document_of_another_issuer(at_provider, oidc):
    oidc.document = {"issuer": "https://evil.example"}
    answer = at_provider.browser().get("/console/provider")
    assert answer.status_code == 403
    assert "another issuer" in answer.text


def test_an_answer_that_nobody_asked_for(at_provider, oidc):
    import httpx

    browser = at_provider.browser()
    there = browser.get("/console/provider", follow_redirects=False)
    back = httpx.get(there.headers["location"]).headers["location"]
    victim = at_provider.browser()  # who is sent the attacker's callback
    assert victim.get(back).status_code == 403
    assert victim.get("/console/account").url.path == "/console/sign-in"
    assert browser.get(back).status_code == 200
    assert browser.get(back).status_code == 403  # and not again


def test_a_provider_that_does_not_answer(site):
    one = site(oidc_issuer="http://127.0.0.1:9", oidc_client_id="x")
    answer = one.browser().get("/console/provider")
    assert answer.status_code == 403
    assert "does not answer" in answer.text


# ---------------------------------------------------------------- roles and teams


def test_members_see_no_page_of_operators(site):
    one = site()
    browser, user = one.signed_in()
    for path in ("/console/users", "/console/audit"):
        assert browser.get(path).status_code == 403
        assert one.browser().get(path).url.path == "/console/sign-in"
    for path in ("/console/users", f"/console/users/{user.id}", "/console/teams"):
        answer = browser.submit(path, "/console/account", name="x", do="operator")
        assert answer.status_code == 403
    assert not one.accounts.user(user.id).operator


def test_a_team_is_for_its_members_and_its_owners_change_it(site):
    one = site()
    ada, owner = one.signed_in("Ada")
    bob, member = one.signed_in("Bob", email="bob@example.org")
    eve, _ = one.signed_in("Eve")
    team = one.accounts.create_team("Search", "test")
    one.accounts.set_member(team, owner.id, True, "test")
    path = f"/console/teams/{team}"
    unknown = eve.get("/console/teams/nothing")
    assert (eve.get(path).status_code, eve.get(path).text.count("Search")) == (403, 0)
    assert re.sub(r"csrf\S+", "", unknown.text) == re.sub(r"csrf\S+", "", eve.get(path).text)
    ada.submit(path, user="bob@example.org", do="add")
    assert "Bob" in bob.get(path).text
    for work in ("owner", "remove", "add"):
        answer = bob.submit(path, "/console/account", user=owner.id, do=work)
        assert answer.status_code == 403
    for name in ("nobody@example.org", "Bob x", ""):
        answer = ada.submit(path, user=name, do="add")
        assert (answer.status_code, "no one user" in answer.text) == (400, True)
    ada.submit(path, user=member.id, do="remove")
    assert bob.get(path).status_code == 403
    answer = ada.submit(f"/console/teams/{owner.id}", user=owner.id, do="remove")
    assert "own team" in answer.text


def test_operators_invite_disable_and_promote(site):
    one = site()
    boss, me = one.signed_in("Boss", operator=True)
    page = boss.submit("/console/users", name="Carol", email="c@example.org")
    link = re.search(r'data-link="([^"]+)"', page.text)[1]
    carol = one.browser()
    assert "Carol" in carol.submit(link).text
    assert link not in boss.get("/console/users").text
    user = one.accounts.find_user("c@example.org")
    boss.submit(f"/console/users/{user.id}", "/console/users", do="operator")
    assert carol.get("/console/audit").status_code == 200
    boss.submit(f"/console/users/{user.id}", "/console/users", do="disable")
    assert carol.get("/console/account").url.path == "/console/sign-in"
    assert boss.submit(f"/console/users/{me.id}", "/console/users", do="disable").status_code == 400
    assert boss.submit(f"/console/users/{user.id}", "/console/users", do="x").status_code == 400
    assert boss.submit("/console/users/nobody", "/console/users", do="link").status_code == 400
    log = boss.get("/console/audit").text
    for action in ("create-user", "sign-in", "operator", "disable"):
        assert f"<td>{action}</td>" in log
    team = boss.submit("/console/teams", "/console/users", name="Search")
    assert "Search" in team.text


def test_stored_scripts_stay_text(site):
    one = site()
    boss, _ = one.signed_in(ATTACK, operator=True, email=ATTACK)
    boss.submit("/console/teams", "/console/users", name=ATTACK)
    for path in ("/console/account", "/console/users", "/console/audit", "/models"):
        page = boss.get(path)
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "unsafe" not in page.headers["content-security-policy"]


# ---------------------------------------------------------------- the tables


@pytest.fixture(params=["sqlite", "postgres"])
def accounts(request, tmp_path):
    url = postgres() if request.param == "postgres" else None
    database = open_database(url, tmp_path)
    if url:
        database.run(lambda e: [e(f"TRUNCATE {t}") for t in ("users", "teams", "memberships")])
    yield Accounts(database)
    database.close()


def test_both_databases_say_the_same(accounts):
    ada = accounts.create_user("Ada", "ada@example.org", operator=True)
    assert accounts.user(ada.id) == ada == accounts.find_user("ada@example.org")
    assert accounts.secret() == accounts.secret()
    token = accounts.create_link(ada.id)
    assert accounts.redeem(token) == ada
    assert accounts.redeem(token) is None
    team = accounts.create_team("Search", "test")
    assert accounts.find_team("Search") == team
    accounts.set_member(team, ada.id, False, "test")
    accounts.set_member(team, ada.id, True, "test")
    assert [each.owner for each in accounts.members(team=team)] == [True]
    assert [each.team for each in accounts.members(user=ada.id)] == [ada.id, team]
    bob = accounts.provider_user("i", "b", "Bob", "", ["Search", "New"], None)
    assert {each.name for each in accounts.members(user=bob.id)} == {"Bob", "Search", "New"}
    again = accounts.provider_user("i", "b", "Bob", "", ["New"], True)
    assert (again.id, again.operator) == (bob.id, True)
    assert {each.name for each in accounts.members(user=bob.id)} == {"Bob", "New"}
    accounts.remove_member(team, ada.id, "test")
    accounts.sign_out_everywhere(ada.id, "test")
    accounts.set_disabled(bob.id, True, "test")
    assert accounts.user(ada.id).epoch == 1
    assert accounts.provider_user("i", "b", "Bob", "", [], None) is None
    actions = [each.action for each in accounts.audit_log(3)]
    assert actions == ["disable", "sign-out-everywhere", "remove-member"]
    with pytest.raises(InputError, match="gte users list"):
        accounts.find_user("nobody")
    with pytest.raises(InputError, match="gte teams list"):
        accounts.find_team("nothing")
    with pytest.raises(InputError, match="expected a name"):
        accounts.create_user(" \n")


def test_the_audit_log_cannot_be_changed(accounts):
    accounts.create_user("Ada")
    before = accounts.audit_log()
    for statement in ("DELETE FROM audit", "UPDATE audit SET actor = 'x'"):
        try:
            accounts.database.run(lambda execute, s=statement: execute(s))
        except DatabaseError as error:
            assert "append-only" in str(error)
    assert accounts.audit_log() == before


def test_a_failure_leaves_nothing(accounts):
    def work(execute):
        execute("INSERT INTO teams VALUES ('t', 'T', 0)")
        raise InputError("no")

    with pytest.raises(InputError):
        accounts.database.run(work)
    assert accounts.teams() == []


def test_bad_places(tmp_path):
    with pytest.raises(InputError, match="expected postgresql://"):
        open_database("mysql://x", tmp_path)
    with pytest.raises(DatabaseError):
        open_database("postgresql://127.0.0.1:9/x", tmp_path)
    (tmp_path / "console.db").write_text("no database" * 100)
    with pytest.raises(InputError, match="cannot be used"):
        SqliteDatabase(tmp_path)


def test_sessions_of_two_servers_on_one_database_are_the_same(site, tmp_path):
    one, two = site(tmp_path / "x"), site(tmp_path / "x")
    browser, user = one.signed_in()
    other = two.browser(cookies={COOKIE: browser.cookies[COOKIE]})
    assert user.name in other.get("/console/account").text
    assert isinstance(Sessions(two.accounts), Sessions)


def test_teams_of_groups():
    assert mapped_teams(["a", "b", "c"], ["b=B team", "c", "d"]) == ["B team", "c"]
    assert mapped_teams([], ["a"]) == []
