import contextlib
import re

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from opengte.serve.config.settings import ServerSettings
from opengte.serve.console.accounts import Accounts
from opengte.serve.console.site import Console
from opengte.serve.http.lenient_router import LenientRouter
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
        self.console = Console(self.settings, self.service, lambda: self.metrics, history)
        self.accounts = Accounts(self.console.database)
        app = Starlette()
        app.router = LenientRouter([*page_routes(self.service, history), *self.console.routes()])
        self.app = self.console.around(app)

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
