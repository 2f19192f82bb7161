"""What tests of the search page share: a knowledge base of two tenants, and its routes."""

from opengte.search.filters import parse_filter
from opengte.search.kb import KnowledgeBase
from opengte.search.web.app import Grant, SearchSite, build_app
from opengte.search.web.service import SearchService
from tests.support import kb as helpers

TOPICS = ("cat dog fish", "tax law court", "river stone mountain")
SECRET = "zebrafish"  # a word that only the other tenant's documents have
HIDDEN = ("zeta", SECRET)


class CountingReranker:
    """Counts shared words, and remembers what it was given to read."""

    def __init__(self):
        self.read = []

    def score(self, query, documents):
        self.read += documents
        words = set(query.split())
        return [float(len(words & set(text.split()))) for text in documents]


def texts(tenant, count, word=""):
    return [
        f"{TOPICS[n % 3]} of {tenant} number {n} {word} {TOPICS[n % 3].split()[n % 2]}"
        for n in range(count)
    ]


def fill(base, *, tenants=("acme", "zeta"), count=12):
    """Add documents of each tenant, and a copy of one of acme's that is zeta's."""
    for tenant in tenants:
        word = SECRET if tenant == "zeta" else "plain"
        base.add(
            texts(tenant, count, word),
            [f"{tenant}/{n}" for n in range(count)],
            titles=[f"{tenant} title {n} {word}" for n in range(count)],
            metadata=[
                {"tenant": tenant, "year": 2000 + n, "topic": f"{tenant}-{n % 3}", "draft": n == 1}
                for n in range(count)
            ],
        )
    long = " ".join(f"river {n} stone" for n in range(40))
    if "acme" in tenants:
        base.add([long], ["acme/long"], titles=["acme long"], metadata=[{"tenant": "acme"}])
    if "zeta" in tenants:
        base.add([long], ["zeta/copy"], titles=["zeta copy"], metadata=[{"tenant": "zeta"}])
    return base


def made(folder, name="kb", **options) -> KnowledgeBase:
    return fill(helpers.kb(folder, name), **options)


def desk(base, where=None, reranker=None, name="kb") -> SearchService:
    return SearchService(
        name, base, parse_filter(where), None if reranker is None else lambda: reranker
    )


def app(*desks, visitor=None, guard=None, **options):
    """Return the application; every request is the visitor's."""
    seen = visitor or Grant()
    return build_app(SearchSite(desks, guard or (lambda request, name: seen), **options))


def only(base, tenant):
    return base.limited({"tenant": tenant})
