"""One's API keys: made, shown once, rotated and revoked; a key belongs to a team, which pays."""

import asyncio
import time

from starlette.responses import Response
from starlette.routing import BaseRoute

from opengte.errors import AccessError, InputError
from opengte.serve.auth.keys import ApiKey, KeyFile, RateLimits
from opengte.serve.config.paths import keys_folder
from opengte.serve.config.settings import ServerSettings
from opengte.serve.console.accounts import Accounts, audit
from opengte.serve.console.guard import Guard, Visit

LONGEST_NAME = 60


class KeyPages:
    """The pages of keys; members see those of their teams, and change those they made."""

    def __init__(self, settings: ServerSettings, accounts: Accounts, guard: Guard) -> None:
        self._settings, self._accounts, self._guard = settings, accounts, guard
        self._file = KeyFile(keys_folder(settings))

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            self._guard.get("/console/keys", self.keys),
            self._guard.post("/console/keys", self.create),
            self._guard.post("/console/keys/{key}", self.change),
        ]

    async def keys(self, visit: Visit, secret: str = "", shown: str = "") -> Response:
        """Show the keys of all teams of the user; secret is one that was just made."""
        teams = await asyncio.to_thread(self._accounts.members, user=visit.user.id)
        names = {each.team: each.name for each in teams}
        owned = {each.team for each in teams if each.owner}
        keys = [key for key in await asyncio.to_thread(self._file.list) if key.team in names]
        return visit.page(
            "keys.html",
            keys=[(key, key.state(time.time()), _may_change(visit, key, owned)) for key in keys],
            names=names,
            models=[model.name for model in self._settings.models],
            secret=secret,
            shown=shown,
        )

    async def create(self, visit: Visit) -> Response:
        """Make a key for a team of the user."""
        form, user = visit.form, visit.user
        name = " ".join(form.get("name", "").split())[:LONGEST_NAME]
        if not name:
            raise InputError("name: a key needs a name, such as what it is used for")
        teams = await asyncio.to_thread(self._accounts.members, user=user.id)
        team = form.get("team", "")
        if team not in {each.team for each in teams}:
            raise AccessError("There is no such team, or you are not in it.", True)
        days = _whole(form, "days")
        models = tuple(form.get("models", "").replace(",", " ").split()) or None
        limits = RateLimits(
            _whole(form, "requests_per_minute"),
            _whole(form, "tokens_per_minute"),
            None,
            _whole(form, "tokens_per_month"),
        )
        key, secret = await asyncio.to_thread(
            lambda: self._file.create(
                name,
                models=models,
                limits=limits,
                expires=None if days is None else time.time() + days * 86400,
                team=team,
                maker=user.id,
            )
        )
        await self._audit(user.id, "create-key", key)
        return await self.keys(visit, secret, key.id)

    async def change(self, visit: Visit) -> Response:
        """Rotate or revoke a key."""
        work, user = visit.form.get("do"), visit.user
        teams = await asyncio.to_thread(self._accounts.members, user=user.id)
        names = {each.team for each in teams}
        owned = {each.team for each in teams if each.owner}
        keys = await asyncio.to_thread(self._file.list)
        wanted = visit.request.path_params["key"]
        key = next((key for key in keys if key.id == wanted and key.team in names), None)
        if key is None:  # the same for one of another team
            raise AccessError("There is no such key, or it is of another team.", True)
        if not _may_change(visit, key, owned):
            raise AccessError("Only its maker and owners of the team may change this key.", True)
        if work == "revoke":
            await asyncio.to_thread(self._file.revoke, key.id)
            await self._audit(user.id, "revoke-key", key)
            return visit.to("console/keys")
        if work != "rotate":
            raise InputError(f"do: got {work!r}; expected rotate or revoke")
        _, secret = await asyncio.to_thread(self._file.rotate, key.id, 86400.0)
        await self._audit(user.id, "rotate-key", key)
        return await self.keys(visit, secret, key.id)

    async def _audit(self, actor: str, action: str, key: ApiKey) -> None:
        run, text = self._accounts.database.run, f"{key.name} (team {key.team})"
        await asyncio.to_thread(run, lambda execute: audit(execute, actor, action, key.id, text))


def _may_change(visit: Visit, key: ApiKey, owned: set[str]) -> bool:
    return key.revoked is None and (key.maker == visit.user.id or key.team in owned)


def _whole(form: dict[str, str], name: str) -> int | None:
    text = form.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:19]) < 10**15):
        raise InputError(f"{name}: got {text[:40]!r}; expected a whole number, or nothing")
    return int(text)
