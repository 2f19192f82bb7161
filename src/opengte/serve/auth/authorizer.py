"""Who may do what, and how much of it: keys, limits and usage behind the protocol `Gate`."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from opengte.errors import AccessError
from opengte.serve.auth.keys import Key, KeyRing
from opengte.serve.auth.rate_limits import LimitTable
from opengte.serve.auth.usage import UsageLog
from opengte.serve.types import Identity


@dataclass(frozen=True)
class Holder(Identity):
    """An Identity that remembers its key, and what it reserved."""

    holder: Key | None = None
    reserved: list[int] = field(default_factory=list)


class KeyGate:
    """The gate of a server: `needed` says whether requests must show a key."""

    def __init__(
        self,
        ring: KeyRing,
        table: LimitTable,
        usage: UsageLog | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Join the parts; aliases: other names of models -> the name that keys allow."""
        self.ring = ring
        self.table = table
        self.usage = usage
        self._aliases = aliases or {}

    @property
    def needed(self) -> bool:
        """Return whether requests must show a key."""
        return self.ring.needed

    def admit(self, secret: str | None, model: str | None) -> Identity:
        """Return who holds the key; raise AccessError or LimitError (requests per minute)."""
        key = self.known(secret)
        if key is None:
            return Holder()
        if model is not None:
            self._check_model(key, model)
        self.table.request(key)
        return Holder(key.id, key.priority, key)

    def known(self, secret: str | None) -> Key | None:
        """Return the key without counting a request, or None where none is needed."""
        if not self.ring.needed:
            return None
        if not secret:
            raise AccessError(
                "no API key was given; send it as `Authorization: Bearer KEY`", authenticated=False
            )
        key = self.ring.find(secret)
        if key is None:
            raise AccessError("the API key is not known to this server", authenticated=False)
        state = key.state(time.time())
        if state != "active":
            raise AccessError(f"the API key `{key.id}` is {state}", authenticated=False)
        return key

    def reserve(self, identity: Identity, model: str, tokens: int) -> None:
        """Count tokens about to be computed; raise LimitError when a limit or quota is used up."""
        if isinstance(identity, Holder) and identity.holder is not None:
            self._check_model(identity.holder, model)
            self.table.take(identity.holder, tokens)
            identity.reserved.append(tokens)

    def record(self, identity: Identity, model: str, tokens: int, texts: int) -> None:
        """Write down what was used; what was reserved before is corrected by it."""
        if isinstance(identity, Holder) and identity.holder is not None:
            self.table.settle(identity.holder, tokens - sum(identity.reserved))
            identity.reserved.clear()
        if self.usage is not None and (tokens or texts):  # not of a request that failed
            self.usage.record(identity.key, model, texts, tokens)

    def _check_model(self, key: Key, model: str) -> None:
        if key.models is None or model in key.models:
            return
        if self._aliases.get(model, model) not in key.models:
            raise AccessError(
                f"the API key `{key.id}` may not use the model `{model}`; "
                f"it may use {', '.join(f'`{name}`' for name in key.models) or 'none'}",
                authenticated=True,
            )


def seed(gate: KeyGate, now: float | None = None) -> None:
    """Tell the table of limits what keys with a quota used before this server started."""
    now = time.time() if now is None else now
    keys = [k for k in gate.ring.all() if k.limits.tokens_per_day or k.limits.tokens_per_month]
    if not keys or gate.usage is None:
        return
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    totals = gate.usage.totals(day, day[:7])
    for key in keys:
        gate.table.seed(key, *totals.get(key.id, (0, 0)), now=now)
