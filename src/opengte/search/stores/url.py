"""Addresses of stores: how to show one without the password that it may hold."""

from urllib.parse import urlsplit, urlunsplit


def hide_password(place: str) -> str:
    """Return a folder or URL with the password, if it has one, replaced by asterisks."""
    if "://" not in place or "@" not in place:
        return place
    parts = urlsplit(place)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    return urlunsplit(parts._replace(netloc=f"{name}{':***' if colon else ''}{at}{host}"))
