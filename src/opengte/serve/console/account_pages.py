"""Signing in and out, one's account, and teams."""

import asyncio
from typing import Any

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.responses import Response
from starlette.routing import BaseRoute

from opengte.errors import AccessError, InputError
from opengte.serve.config.settings import ServerSettings
from opengte.serve.console.accounts import Accounts, Membership, User
from opengte.serve.console.guard import Guard, Visit
from opengte.serve.console.ledger import UNIT, Ledger
from opengte.serve.console.provider import Provider, mapped_teams

ATTEMPT = "opengte_attempt"  # the cookie of a sign-in that is under way
ATTEMPT_SECONDS = 600
BAD_LINK = "This link is unknown, was used, or is too old. Ask an operator for another one."


class AccountPages:
    """The pages of accounts."""

    def __init__(
        self, settings: ServerSettings, accounts: Accounts, ledger: Ledger, guard: Guard
    ) -> None:
        self._settings, self._accounts, self._guard = settings, accounts, guard
        self._ledger = ledger
        self._provider = Provider(settings) if settings.oidc_issuer else None
        self._attempts = URLSafeTimedSerializer(accounts.secret(), salt="opengte.attempt")

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        get, post = self._guard.get, self._guard.post
        return [
            get("/console/sign-in", self.sign_in, "anyone"),
            get("/console/provider", self.to_provider, "anyone"),
            get("/console/callback", self.callback, "anyone"),
            get("/console/link/{token}", self.link, "anyone"),
            post("/console/link/{token}", self.use_link, "anyone"),
            post("/console/sign-out", self.sign_out),
            post("/console/sign-out-everywhere", self.sign_out_everywhere),
            get("/console/account", self.account),
            get("/console/teams/{team}", self.team),
            post("/console/teams/{team}", self.change_team),
        ]

    async def sign_in(self, visit: Visit) -> Response:
        """Show how to sign in."""
        if visit.session.user is not None:
            return visit.to("console/account")
        return visit.page("sign_in.html", provider=self._provider is not None)

    async def to_provider(self, visit: Visit) -> Response:
        """Send the browser to the identity provider."""
        if self._provider is None:
            raise InputError("This server has no identity provider; use a sign-in link.")
        self._guard.throttle.take(visit.request)
        attempt: dict[str, Any] = {}
        visit.request.scope["session"] = attempt
        response = await self._provider.redirect(visit.request, self._callback_url(visit))
        response.set_cookie(
            ATTEMPT,
            str(self._attempts.dumps(attempt)),
            max_age=ATTEMPT_SECONDS,
            httponly=True,
            samesite="lax",  # it must come with the provider's redirect
            secure=visit.request.url.scheme == "https",
        )
        return response

    def _callback_url(self, visit: Visit) -> str:
        public = self._settings.console_url or f"{visit.request.url.scheme}://" + (
            visit.request.headers.get("host", "") + self._settings.root_path
        )
        return f"{public.rstrip('/')}/console/callback"

    async def callback(self, visit: Visit) -> Response:
        """Sign in whom the provider sent back."""
        if self._provider is None:
            raise InputError("This server has no identity provider; use a sign-in link.")
        self._guard.throttle.take(visit.request)
        attempt: dict[str, Any] = {}
        try:
            cookie = visit.request.cookies.get(ATTEMPT, "")
            attempt = dict(self._attempts.loads(cookie, max_age=ATTEMPT_SECONDS))
        except (BadData, TypeError, ValueError):
            pass  # without it the state is not known, which ends the sign-in below
        visit.request.scope["session"] = attempt
        who = await self._provider.identity(visit.request)
        operators = self._settings.oidc_operators
        user = await asyncio.to_thread(
            self._accounts.provider_user,
            who.issuer,
            who.subject,
            who.name,
            who.email,
            mapped_teams(who.groups, self._settings.oidc_team),
            any(group in operators for group in who.groups) if operators else None,
        )
        if user is None:
            raise AccessError("This account is disabled. Ask an operator.", True)
        response = await self._signed_in(visit, user)
        response.delete_cookie(ATTEMPT)
        return response

    async def link(self, visit: Visit) -> Response:
        """Ask before a link is used, so that a preview of a message does not use it."""
        return visit.page("link.html")

    async def use_link(self, visit: Visit) -> Response:
        """Sign in by a link."""
        token = visit.request.path_params["token"]
        user = await asyncio.to_thread(self._accounts.redeem, token)
        if user is None:
            raise AccessError(BAD_LINK, False)
        return await self._signed_in(visit, user)

    async def _signed_in(self, visit: Visit, user: User) -> Response:
        free = int(self._settings.free_credit * UNIT)
        await asyncio.to_thread(self._ledger.welcome, user.id, free)
        response = visit.to("console/account")
        self._guard.sessions.sign_in(visit.request, response, user)
        return response

    async def sign_out(self, visit: Visit) -> Response:
        """End this session in this browser."""
        response = visit.to("console/sign-in")
        response.delete_cookie("opengte_session")
        return response

    async def sign_out_everywhere(self, visit: Visit) -> Response:
        """End every session of the user."""
        user = visit.user.id
        await asyncio.to_thread(self._accounts.sign_out_everywhere, user, user)
        return await self.sign_out(visit)

    async def account(self, visit: Visit) -> Response:
        """Show the account."""
        teams = await asyncio.to_thread(self._accounts.members, user=visit.user.id)
        return visit.page("account.html", teams=teams)

    async def team(self, visit: Visit) -> Response:
        """Show a team to its members and to operators."""
        team, own, members = await self._team(visit)
        name = next(
            (n for id, n in await asyncio.to_thread(self._accounts.teams) if id == team), ""
        )
        return visit.page(
            "team.html", team=team, name=name, members=members,
            owner=visit.user.operator or (own is not None and own.owner),
        )  # fmt: skip

    async def change_team(self, visit: Visit) -> Response:
        """Add or remove a member; for owners of the team and operators."""
        team, own, _ = await self._team(visit)
        if not (visit.user.operator or (own and own.owner)):
            raise AccessError("Only an owner of the team may change it.", True)
        work = visit.form.get("do")
        who = await asyncio.to_thread(self._known_user, visit.form.get("user", ""))
        if work == "remove":
            await asyncio.to_thread(self._accounts.remove_member, team, who, visit.user.id)
        elif work in ("add", "owner"):
            owner = work == "owner"
            await asyncio.to_thread(self._accounts.set_member, team, who, owner, visit.user.id)
        else:
            raise InputError(f"do: got {work!r}; expected add, owner or remove")
        return visit.to(f"console/teams/{team}")

    def _known_user(self, name: str) -> str:
        """Return the id of a user by id or email; the same error for every unknown one."""
        try:
            return self._accounts.find_user(name).id
        except InputError:
            raise InputError("There is no one user of this id or email.") from None

    async def _team(self, visit: Visit) -> tuple[str, Membership | None, list[Membership]]:
        """Return a team, the user's place in it and all members.

        Raises AccessError, the same for a team that does not exist, unless the user may see it.
        """
        team = visit.request.path_params["team"]
        members = await asyncio.to_thread(self._accounts.members, team=team)
        own = next((each for each in members if each.user == visit.user.id), None)
        if own is None and not (visit.user.operator and members):
            raise AccessError("There is no such team, or you are not in it.", True)
        return team, own, members
