"""What a team used and has left: charts, tables, CSV; operators grant credit and set budgets."""

import asyncio
import csv
import io
import time
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from starlette.responses import Response
from starlette.routing import BaseRoute

from opengte.errors import AccessError
from opengte.serve.config.settings import ServerSettings
from opengte.serve.console.accounts import Accounts
from opengte.serve.console.guard import Guard, Visit
from opengte.serve.console.ledger import UNIT, Ledger, Use, amount_of
from opengte.serve.console.rendering import PAGE_HEADERS
from opengte.svg import column_chart

DAYS = 30


class UsePages:
    """The pages of use and credit."""

    def __init__(
        self, settings: ServerSettings, accounts: Accounts, ledger: Ledger, guard: Guard
    ) -> None:
        self._settings, self._accounts = settings, accounts
        self._ledger, self._guard = ledger, guard

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            self._guard.get("/console/use", self.use),
            self._guard.get("/console/use/{team}", self.use),
            self._guard.get("/console/use/{team}/csv", self.as_csv),
            self._guard.post("/console/use/{team}", self.change, "operator"),
        ]

    async def _team(self, visit: Visit) -> tuple[str, dict[str, str]]:
        """Return the team whose use is asked for, and the user's teams; AccessError for others."""
        own = await asyncio.to_thread(self._accounts.members, user=visit.user.id)
        names = {each.team: each.name for each in own}
        team = visit.request.path_params.get("team", visit.user.id)
        if visit.user.operator:
            names = dict(await asyncio.to_thread(self._accounts.teams)) | names
        if team not in names:
            raise AccessError("There is no such team, or you are not in it.", True)
        return team, names

    async def use(self, visit: Visit) -> Response:
        """Show the last days."""
        team, names = await self._team(visit)
        days = last_days(DAYS)
        uses = await asyncio.to_thread(self._ledger.uses, team, days[0])
        return visit.page(
            "use.html",
            team=team,
            names=names,
            balance=await asyncio.to_thread(self._ledger.balance, team),
            calls=await asyncio.to_thread(self._ledger.calls, team, 50),
            entries=await asyncio.to_thread(self._grants, team),
            chart=Markup(column_chart(_by_day(uses, days), "tokens a day")),
            by_model=_sums(uses, "model"),
            by_key=_sums(uses, "key"),
            unit=UNIT,
            currency=self._settings.currency,
        )

    def _grants(self, team: str) -> list[Any]:
        return [each for each in self._ledger.entries(team, 1000) if each.kind == "grant"][:20]

    async def as_csv(self, visit: Visit) -> Response:
        """Answer with all use by day, key and model."""
        team, _ = await self._team(visit)
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["day", "key", "model", "requests", "tokens", "cost"])
        for use in await asyncio.to_thread(self._ledger.uses, team):
            cost = f"{use.amount / UNIT:.9f}"
            model = use.model if use.model[:1] not in "=+-@\t" else f"'{use.model}"
            writer.writerow([use.day, use.key, model, use.requests, use.tokens, cost])
        headers = {**PAGE_HEADERS, "content-disposition": 'attachment; filename="use.csv"'}
        return Response(file.getvalue(), headers=headers, media_type="text/csv")

    async def change(self, visit: Visit) -> Response:
        """Grant credit, or set the budget of a month."""
        team, _ = await self._team(visit)
        me = visit.user.id
        if visit.form.get("do") == "budget":
            text = visit.form.get("amount", "").strip()
            budget = amount_of(text) if text else None
            await asyncio.to_thread(self._ledger.set_budget, team, budget, me)
        else:
            amount, note = amount_of(visit.form.get("amount", "")), visit.form.get("note", "")
            await asyncio.to_thread(self._ledger.grant, team, amount, me, note[:200])
        return visit.to(f"console/use/{team}")


def last_days(count: int) -> list[str]:
    """Return the last days in UTC, today included, the oldest first."""
    now = time.time()
    return [
        time.strftime("%Y-%m-%d", time.gmtime(now - 86400 * back))
        for back in reversed(range(count))
    ]


def _by_day(uses: Sequence[Use], days: Sequence[str]) -> list[tuple[str, float]]:
    sums: dict[str, float] = dict.fromkeys(days, 0.0)
    for use in uses:
        sums[use.day] = sums.get(use.day, 0.0) + use.tokens
    return sorted(sums.items())


def _sums(uses: Sequence[Use], name: str) -> list[tuple[str, int, int, int]]:
    sums: dict[str, list[int]] = {}
    for use in uses:
        row = sums.setdefault(getattr(use, name), [0, 0, 0])
        for i, amount in enumerate((use.requests, use.tokens, use.amount)):
            row[i] += amount
    return sorted(((key, *row) for key, row in sums.items()), key=lambda row: -row[2])  # type: ignore[misc]
