"""TLS: one context for all connections, whose certificate can be exchanged while it is used."""

import ssl

from opengte.errors import InputError
from opengte.serve.config.settings import Settings


def context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context that the settings ask for, or None for plain HTTP."""
    if settings.tls_cert is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    load_certificate(made, settings)
    if settings.tls_client_ca is not None:
        try:
            made.load_verify_locations(settings.tls_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise _unusable("tls_client_ca", settings.tls_client_ca, error) from None
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """Read the certificate and key; connections made from now on show them."""
    assert settings.tls_cert is not None
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise _unusable("tls_cert", settings.tls_cert, error) from None


def _unusable(setting: str, path: str, error: Exception) -> InputError:
    return InputError(f"{setting}: cannot use `{path}`: {error}; expected a PEM file")
