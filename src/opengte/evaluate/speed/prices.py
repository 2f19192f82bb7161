"""What a million tokens costs: on a machine with a price by the hour, and as services list it."""

import re
from typing import NamedTuple

from opengte.errors import InputError

SEEN = "2026-12"


class ListPrice(NamedTuple):
    """A published price in US dollars per million tokens."""

    model: str
    service: str
    dollars: float


# list prices for one request at a time, without batch discounts or free tiers, as of SEEN
LIST_PRICES = (
    ListPrice("bge-m3", "Together", 0.008),
    ListPrice("nomic-embed-text-v1.5", "Fireworks", 0.008),
    ListPrice("text-embedding-3-small", "OpenAI", 0.02),
    ListPrice("voyage lite", "Voyage", 0.02),
    ListPrice("voyage-3", "Voyage", 0.06),
    ListPrice("text-embedding-3-large", "OpenAI", 0.13),
    ListPrice("voyage large", "Voyage", 0.18),
)
_PRICE = re.compile(r"\s*[$€£]?\s*(\d+(?:\.\d+)?)\s*/\s*(h|hour|day|month)\s*\Z")
_HOURS = {"h": 1, "hour": 1, "day": 24, "month": 730}


def parse_price(text: str) -> float:
    """Return a price of a machine by the hour; InputError unless it is like `0.09/h` or `65/month`.

    >>> parse_price("0.09/h"), parse_price("73/month")
    (0.09, 0.1)
    """
    found = _PRICE.match(text)
    if found is None:
        raise InputError(
            f"price is {text!r}, expected an amount and a time, such as 0.09/h or 65/month"
        )
    return float(found[1]) / _HOURS[found[2]]


def cost_per_million(price: float, tokens_per_second: float) -> float:
    """Return what a million tokens cost on a machine, in the currency of its price by the hour.

    >>> round(cost_per_million(0.09, 25_000), 4)
    0.001
    """
    return price / 3600 / tokens_per_second * 1e6
