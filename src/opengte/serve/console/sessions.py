"""Sessions in signed cookies, protection of every change against forgery, and a rate limit."""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import Response

from opengte.errors import AccessError, InputError, LimitError
from opengte.serve.console.accounts import Accounts, User

COOKIE = "opengte_session"
LIFETIME = 7 * 86400  # seconds after a sign-in
LONGEST_FORM = 64 << 10  # bytes
CHANGES_PER_MINUTE = 60  # of one address
_ADDRESSES = 10_000  # that are remembered


@dataclass(frozen=True)
class Session:
    """A browser's session: a random id, and who signed in, if anyone did."""

    id: str
    user: User | None


class Sessions:
    """Reads and writes the cookie; a new sign-in always gets a new id."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        secret = accounts.secret()
        self._signer = URLSafeTimedSerializer(secret, salt="opengte.session")
        self._csrf_key = hashlib.sha256(b"csrf" + secret.encode()).digest()

    def read(self, request: Request) -> Session:
        """Return the session of a request; a fresh one for a cookie that is not valid. Blocks."""
        content = self._load(request.cookies.get(COOKIE, ""))
        if content is None:
            return Session(secrets.token_hex(16), None)
        user = self._accounts.user(content["user"]) if content["user"] else None
        if user is not None and (user.disabled or user.epoch != content["epoch"]):
            user = None
        if content["user"] and user is None:
            return Session(secrets.token_hex(16), None)
        return Session(content["id"], user)

    def _load(self, cookie: str) -> dict[str, Any] | None:
        try:
            content = self._signer.loads(cookie, max_age=LIFETIME)
            return {name: content[name] for name in ("id", "user", "epoch")}
        except (BadData, KeyError, TypeError):
            return None

    def sign_in(self, request: Request, response: Response, user: User) -> None:
        """Begin a session with a new id, whatever the browser had."""
        self.write(request, response, Session(secrets.token_hex(16), user))

    def write(self, request: Request, response: Response, session: Session) -> None:
        """Set the cookie: not for scripts, and not sent by forms of other sites."""
        user = session.user
        content = {
            "id": session.id,
            "user": user.id if user else None,
            "epoch": user.epoch if user else 0,
        }
        response.set_cookie(
            COOKIE,
            str(self._signer.dumps(content)),
            max_age=LIFETIME,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )

    def token(self, session: Session) -> str:
        """Return what a form of this session must send back."""
        return hmac.new(self._csrf_key, session.id.encode(), hashlib.sha256).hexdigest()

    def check(self, request: Request, session: Session, form: dict[str, str]) -> None:
        """Raise AccessError unless a change was sent by a form of this very session."""
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin")
        same = origin is None or urlsplit(origin).netloc == request.headers.get("host")
        sent = form.get("csrf", "").encode("utf-8", "replace")
        if (
            site not in ("same-origin", "none")
            or not same
            or not hmac.compare_digest(sent, self.token(session).encode())
        ):
            raise AccessError("The form is of another page or too old. Load the page again.", True)


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; InputError if it is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise InputError(f"The form has more than {LONGEST_FORM:,} bytes.")
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


class Throttle:
    """Leaky buckets of changes and sign-ins, one for each address."""

    def __init__(self, per_minute: int = CHANGES_PER_MINUTE) -> None:
        self._rate = per_minute
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, request: Request, now: float | None = None) -> None:
        """Count one; raise LimitError when those of the minute are used up."""
        address = request.client.host if request.client else ""
        now = time.monotonic() if now is None else now
        level, since = self._levels.pop(address, (0.0, now))
        level = max(0.0, level - (now - since) * self._rate / 60)
        self._levels[address] = (level if level + 1 > self._rate else level + 1, now)
        if len(self._levels) > _ADDRESSES:
            self._levels.popitem(last=False)
        if level + 1 > self._rate:
            raise LimitError("Too many attempts. Try again in a minute.", retry_after=60.0)
