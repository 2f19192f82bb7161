"""Pages for operators: users, teams and the audit log."""

import asyncio

from starlette.responses import Response
from starlette.routing import BaseRoute

from opengte.errors import InputError
from opengte.serve.auth.keys import KeyFile
from opengte.serve.config.paths import keys_folder
from opengte.serve.config.settings import ServerSettings
from opengte.serve.console.accounts import Accounts
from opengte.serve.console.guard import Guard, Visit


class OperatorPages:
    """The pages of operators."""

    def __init__(self, settings: ServerSettings, accounts: Accounts, guard: Guard) -> None:
        self._accounts, self._guard = accounts, guard
        self._keys = KeyFile(keys_folder(settings))

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        get, post = self._guard.get, self._guard.post
        return [
            get("/console/users", self.users, "operator"),
            post("/console/users", self.invite, "operator"),
            post("/console/users/{user}", self.change_user, "operator"),
            post("/console/teams", self.create_team, "operator"),
            get("/console/audit", self.audit, "operator"),
        ]

    async def users(self, visit: Visit, link: str = "") -> Response:
        """Show users and teams."""
        users = await asyncio.to_thread(self._accounts.users)
        teams = await asyncio.to_thread(self._accounts.teams)
        own = {user.id for user in users}
        shared = [(id, name) for id, name in teams if id not in own]
        return visit.page("users.html", users=users, teams=shared, link=link)

    async def invite(self, visit: Visit) -> Response:
        """Create a user and show a sign-in link once."""
        name, email = visit.form.get("name", ""), visit.form.get("email", "")
        user = await asyncio.to_thread(
            self._accounts.create_user, name, email, False, visit.user.id
        )
        return await self._with_link(visit, user.id)

    async def _with_link(self, visit: Visit, user: str) -> Response:
        create = self._accounts.create_link
        token = await asyncio.to_thread(create, user, actor=visit.user.id)
        return await self.users(visit, f"/console/link/{token}")

    async def change_user(self, visit: Visit) -> Response:
        """Disable, enable, promote or sign out a user, or make a link for them."""
        user, work = visit.request.path_params["user"], visit.form.get("do", "")
        if await asyncio.to_thread(self._accounts.user, user) is None:
            raise InputError("There is no such user.")
        if user == visit.user.id and work in ("disable", "member"):
            raise InputError("You cannot do this to your own account; another operator can.")
        actor, accounts = visit.user.id, self._accounts
        if work == "link":
            return await self._with_link(visit, user)
        if work in ("disable", "enable"):
            await asyncio.to_thread(accounts.set_disabled, user, work == "disable", actor)
            if work == "disable":
                await asyncio.to_thread(self._keys.revoke_made_by, user)
        elif work in ("operator", "member"):
            await asyncio.to_thread(accounts.set_operator, user, work == "operator", actor)
        elif work == "sign-out":
            await asyncio.to_thread(accounts.sign_out_everywhere, user, actor)
        else:
            raise InputError(f"do: got {work!r}; expected link, disable, operator or sign-out")
        return visit.to("console/users")

    async def create_team(self, visit: Visit) -> Response:
        """Create a team, with the operator as its owner."""
        name, me = visit.form.get("name", ""), visit.user.id
        team = await asyncio.to_thread(self._accounts.create_team, name, me)
        await asyncio.to_thread(self._accounts.set_member, team, me, True, me)
        return visit.to(f"console/teams/{team}")

    async def audit(self, visit: Visit) -> Response:
        """Show the last changes."""
        entries = await asyncio.to_thread(self._accounts.audit_log)
        names = {user.id: user.name for user in await asyncio.to_thread(self._accounts.users)}
        return visit.page("audit.html", entries=entries, names=names)
