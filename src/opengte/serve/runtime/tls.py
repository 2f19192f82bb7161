"""TLS: one context for all connections, whose certificate can be replaced while it is in use."""

import ssl

from opengte.errors import InputError
from opengte.serve.config.settings import ServerSettings


def create_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """Return the TLS context of a server, or None for plain HTTP.

    Raises InputError for a file that cannot be used.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, settings)
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise _unusable("tls_client_ca", settings.tls_client_ca, error) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(context: ssl.SSLContext, settings: ServerSettings) -> None:
    """Load the certificate and its key; connections made from now on use them."""
    assert settings.tls_cert is not None
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise _unusable("tls_cert", settings.tls_cert, error) from None


def _unusable(setting: str, path: str, error: Exception) -> InputError:
    return InputError(f"{setting}: cannot use `{path}`: {error}; expected a PEM file")
