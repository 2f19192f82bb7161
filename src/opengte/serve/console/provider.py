"""Sign-in by OpenID Connect, with authlib: any provider that has a discovery document."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from authlib.integrations.starlette_client import OAuth
from starlette.requests import Request
from starlette.responses import Response

from opengte.errors import AccessError
from opengte.serve.config.settings import ServerSettings

log = logging.getLogger("opengte.serve")

LEEWAY = 120  # seconds that the clocks of provider and server may differ
# public keys only: with a shared secret as the key, a client could sign tokens itself
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
SIGN_IN_FAILED = "The sign-in did not succeed. Start it again."


@dataclass(frozen=True)
class ProviderIdentity:
    """Who signed in at a provider."""

    issuer: str
    subject: str
    name: str
    email: str
    groups: tuple[str, ...]


class Provider:
    """The configured provider; its discovery document is read at the first sign-in."""

    def __init__(self, settings: ServerSettings) -> None:
        self.issuer = (settings.oidc_issuer or "").rstrip("/")
        self._groups = settings.oidc_groups_claim
        self._id = settings.oidc_client_id
        self._client: Any = OAuth().register(
            "opengte",
            client_id=settings.oidc_client_id,
            client_secret=settings.oidc_client_secret,
            server_metadata_url=f"{self.issuer}/.well-known/openid-configuration",
            client_kwargs={"scope": settings.oidc_scope, "code_challenge_method": "S256"},
        )

    async def redirect(self, request: Request, callback: str) -> Response:
        """Return the redirect to the provider; state and nonce are kept in `request.session`."""
        try:
            await self._metadata()
            response: Response = await self._client.authorize_redirect(request, callback)
        except AccessError:
            raise
        except Exception as error:  # authlib's, joserfc's, and those of httpx or httpx2
            raise AccessError(f"The identity provider does not answer: {error}", False) from error
        return response

    async def identity(self, request: Request) -> ProviderIdentity:
        """Return who signed in, from the request that the provider sent the browser back with.

        Raises AccessError if state, nonce, issuer, audience, time or signature are not right.
        """
        options = {
            "iss": {"essential": True, "values": [self.issuer, self.issuer + "/"]},
            "aud": {"essential": True, "values": [self._id]},
        }
        try:
            await self._metadata()
            token = await self._client.authorize_access_token(
                request, claims_options=options, leeway=LEEWAY
            )
            claims = token.get("userinfo")
            if not claims or "nonce" not in claims:
                raise AccessError(SIGN_IN_FAILED, False)
        except AccessError:
            raise
        except Exception as error:  # as above: whatever is wrong, nobody is signed in
            log.warning("a sign-in failed: %s: %s", type(error).__name__, error)
            raise AccessError(SIGN_IN_FAILED, False) from error
        return self._identity(claims)

    def _identity(self, claims: Any) -> ProviderIdentity:
        subject = str(claims["sub"])
        name = claims.get("name") or claims.get("preferred_username") or claims.get("email")
        groups = claims.get(self._groups) or ()
        if isinstance(groups, str):
            groups = (groups,)
        return ProviderIdentity(
            self.issuer,
            subject,
            str(name or subject),
            str(claims.get("email") or ""),
            tuple(str(group) for group in groups),
        )

    async def _metadata(self) -> None:
        """Read the discovery document, which must be of the configured issuer."""
        metadata = await self._client.load_server_metadata()
        if str(metadata.get("issuer", "")).rstrip("/") != self.issuer:
            raise AccessError("The identity provider's document names another issuer.", False)
        offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        metadata["id_token_signing_alg_values_supported"] = [a for a in offered if a in ALGORITHMS]


def mapped_teams(groups: Sequence[str], mapping: Sequence[str]) -> list[str]:
    """Return the teams of groups: `GROUP` or `GROUP=TEAM` each; other groups have none.

    >>> mapped_teams(["staff", "search"], ["search=Search team", "ml"])
    ['Search team']
    """
    teams = {group: team or group for group, _, team in (each.partition("=") for each in mapping)}
    return [teams[group] for group in groups if group in teams]
