"""Authenticates callers by API key, and enforces their rate limits, quotas and models."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from opengte.errors import AccessError, LimitError
from opengte.serve.auth.keys import ApiKey, KeyRing
from opengte.serve.auth.rate_limits import RateLimiter
from opengte.serve.auth.usage import UsageLog
from opengte.serve.types import Caller, Named, find_named


class CreditGate(Protocol):
    """Charges the team of a key; see `console.credit_log`."""

    def take(self, team: str, model: str, tokens: int) -> int:
        """Set credit aside for tokens and return it; CreditError if there is not enough."""
        ...

    def give_back(self, team: str, amount: int) -> None:
        """Return what was set aside for a request that was not computed."""
        ...

    def charge(
        self,
        team: str,
        key: str,
        model: str,
        tokens: int,
        texts: int,
        reserved: int,
        seconds: float,
    ) -> None:
        """Charge a request for its tokens."""
        ...


@dataclass(frozen=True)
class KeyCaller(Caller):
    """A caller with its API key, and the tokens that its request reserved."""

    api_key: ApiKey | None = None
    reserved: list[int] = field(default_factory=list)
    credit: list[int] = field(default_factory=list)  # set aside, in the unit of the ledger
    started: float = field(default_factory=time.monotonic, compare=False)


class KeyAuthorizer:
    """The `Authorizer` of a server."""

    def __init__(
        self,
        keys: KeyRing,
        limiter: RateLimiter,
        usage: UsageLog | None = None,
        models: Sequence[Named] = (),
    ) -> None:
        """Take the keys, limits, usage, and the models that clients may mean by a name."""
        self.keys = keys
        self.limiter = limiter
        self.usage = usage
        self.credit: CreditGate | None = None  # of a server with a console
        self._models = models

    @property
    def key_needed(self) -> bool:
        """Whether requests must carry an API key."""
        return self.keys.key_needed

    def authenticate(self, secret: str | None, model: str | None) -> Caller:
        """Return the caller with this key, and count a request.

        Raises AccessError, or LimitError when the requests of the minute are used up.
        """
        key = self.find_key(secret)
        if key is None:
            return KeyCaller()
        if model is not None:
            self._check_model(key, model)
        self.limiter.take_request(key)
        return KeyCaller(key.id, key.priority, key)

    def find_key(self, secret: str | None) -> ApiKey | None:
        """Return the key without counting a request, or None if none is needed.

        Raises AccessError for a key that is missing, unknown, revoked or expired.
        """
        if not self.keys.key_needed:
            return None
        if not secret:
            raise AccessError(
                "no API key was given; send it as `Authorization: Bearer KEY`", authenticated=False
            )
        key = self.keys.find(secret)
        if key is None:
            raise AccessError("the API key is not known to this server", authenticated=False)
        state = key.state(time.time())
        if state != "active":
            raise AccessError(f"the API key `{key.id}` is {state}", authenticated=False)
        return key

    def sees(self, secret: str | None) -> Callable[[str], bool]:
        """Return whether the key is for a model, without counting a request; AccessError if bad."""
        key = self.find_key(secret)
        return lambda model: key is None or self._is_for(key, model)

    def may_use(self, caller: Caller, model: str) -> bool:
        """Return whether a caller's key is for this model, among others."""
        key = caller.api_key if isinstance(caller, KeyCaller) else None
        return key is None or self._is_for(key, model)

    def reserve(self, caller: Caller, model: str, tokens: int) -> None:
        """Count tokens before they are computed; LimitError when a limit or quota is used up."""
        if isinstance(caller, KeyCaller) and caller.api_key is not None:
            self._check_model(caller.api_key, model)
            team = caller.api_key.team
            if self.credit is not None and team is not None:
                caller.credit.append(self.credit.take(team, model, tokens))
            try:
                self.limiter.take_tokens(caller.api_key, tokens)
            except LimitError:
                if self.credit is not None and team is not None:
                    self.credit.give_back(team, caller.credit.pop())
                raise
            caller.reserved.append(tokens)

    def record(self, caller: Caller, model: str, tokens: int, texts: int) -> None:
        """Record the usage of a request, and correct the limits by what was reserved for it."""
        if isinstance(caller, KeyCaller) and caller.api_key is not None:
            self.limiter.reconcile(caller.api_key, tokens - sum(caller.reserved))
            caller.reserved.clear()
            if self.credit is not None and caller.api_key.team is not None:
                seconds = time.monotonic() - caller.started
                reserved = sum(caller.credit)
                caller.credit.clear()
                self.credit.charge(
                    caller.api_key.team, caller.api_key.id, model, tokens, texts, reserved, seconds
                )
        if self.usage is not None and (tokens or texts):  # not of a request that failed
            self.usage.record(caller.key, model, texts, tokens)

    def restore_quotas(self, now: float | None = None) -> None:
        """Load what keys with a quota used before this server started into the rate limiter."""
        now = time.time() if now is None else now
        limited = [
            key
            for key in self.keys.all()
            if key.limits.tokens_per_day or key.limits.tokens_per_month
        ]
        if not limited or self.usage is None:
            return
        day = time.strftime("%Y-%m-%d", time.gmtime(now))
        totals = self.usage.totals(day, day[:7])
        for key in limited:
            self.limiter.restore(key, *totals.get(key.id, (0, 0)), now=now)

    def _check_model(self, key: ApiKey, model: str) -> None:
        if not self._is_for(key, model):
            raise AccessError(
                f"the API key `{key.id}` may not use the model `{model}`; "
                f"it may use {', '.join(f'`{name}`' for name in key.models or ()) or 'none'}",
                authenticated=True,
            )

    def _is_for(self, key: ApiKey, model: str) -> bool:
        if key.models is None or model in key.models:
            return True
        meant = find_named(model, self._models)
        return meant is not None and any(
            find_named(name, self._models) is meant for name in key.models
        )
