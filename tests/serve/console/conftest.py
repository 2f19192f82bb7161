import contextlib
import re

import pytest
from starlette.testclient import TestClient

from opengte.serve.auth.authorizer import KeyAuthorizer
from opengte.serve.auth.keys import KeyFile, KeyRing
from opengte.serve.auth.rate_limits import RateLimiter, rate_limit_memory
from opengte.serve.config.settings import ServerSettings
from opengte.serve.console.accounts import Accounts
from opengte.serve.console.ledger import Ledger
from opengte.serve.console.site import Console
from opengte.serve.http.app import AppOptions, build_app
from opengte.serve.http.pages import page_routes
from opengte.serve.observability.load_history import LoadHistory
from opengte.serve.observability.metric_store import metric_memory
from opengte.serve.observability.metrics import Metrics
from tests.support.serve_fakes import FakeService


class Browser(TestClient):
    """A browser with cookies of its own, that sends the fields of forms."""

    def token(self, path="/console/sign-in"):
        """Return what a form of a page must send back."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path).text)
        return found[1] if found else ""

    def submit(self, path, page=None, **fields):
        """Send a form of a page."""
        return self.post(path, data={"csrf": self.token(page or path), **fields})


class Site:
    """A console with its accounts; `browser()` opens it in another browser."""

    def __init__(self, folder, service=None, metrics=None, **settings):
        self.metrics = metrics or Metrics(["fake"], [], metric_memory(1))
        self.service, history = service or FakeService(), LoadHistory()
        self.settings = ServerSettings(console=True, state_dir=str(folder), **settings)
        self.authorizer = KeyAuthorizer(
            KeyRing(folder), RateLimiter(rate_limit_memory()), None, self.settings.models
        )
        self.console = Console(
            self.settings, self.service, self.authorizer, lambda: self.metrics, history
        )
        self.authorizer.credit = self.console.credit
        self.ledger = Ledger(self.console.database)
        self.accounts = Accounts(self.console.database)
        routes = [*page_routes(self.service, history), *self.console.routes()]
        options = AppOptions(extra_routes=routes, extra_paths=self.console.paths)
        self.app = self.console.around(build_app(self.service, self.authorizer, options))

    def key(self, team, **options):
        """Return a client with a new key of a team."""
        _, secret = KeyFile(self.authorizer.keys.path.parent).create("test", team=team, **options)
        self.authorizer.keys.refresh()
        return TestClient(self.app, headers={"authorization": f"Bearer {secret}"})

    def browser(self, **options):
        return Browser(self.app, headers={"accept": "text/html"}, **options)

    def signed_in(self, name="Ada", **options):
        """Return a browser and the user who signed in with it."""
        user = self.accounts.create_user(name, **options)
        browser = self.browser()
        answer = browser.submit(f"/console/link/{self.accounts.create_link(user.id)}")
        assert answer.url.path == "/console/account", answer.text
        return browser, user


@pytest.fixture
def site(tmp_path):
    """Makes consoles; each has a folder of its own."""
    with contextlib.ExitStack() as stack:
        made = []

        def make(folder=None, **options):
            one = Site(folder or tmp_path / str(len(made)), **options)
            made.append(one)
            stack.callback(one.console.close)
            return one

        yield make
