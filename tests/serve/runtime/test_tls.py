"""TLS: certificates, client certificates, slow handshakes."""

import ssl

import pytest
import trustme

from opengte.errors import InputError
from opengte.serve.config.settings import ServerSettings
from opengte.serve.runtime import tls
from tests.support.serve_sockets import read_all, read_answer, served

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def certificate(authority, tmp_path):
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


@pytest.fixture
def client(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def settings(folder, **more):
    return ServerSettings(
        tls_cert=str(folder / "cert.pem"), tls_key=str(folder / "key.pem"), **more
    )


@pytest.mark.parametrize("uvloop", [True, False])
def test_a_request_over_tls(certificate, client, uvloop):
    context = tls.create_context(settings(certificate))
    with served(tls=context, uvloop=uvloop) as server, server.connect(client) as connection:
        assert connection.version() in ("TLSv1.2", "TLSv1.3")
        connection.sendall(GET)
        assert read_answer(connection) == (200, b"0")


def test_one_file_may_hold_both(certificate, client):
    context = tls.create_context(ServerSettings(tls_cert=str(certificate / "both.pem")))
    with served(tls=context) as server, server.connect(client) as connection:
        connection.sendall(GET)
        assert read_answer(connection)[0] == 200


def test_no_certificate_no_tls():
    assert tls.create_context(ServerSettings()) is None


def test_clients_must_show_a_certificate(certificate, client, authority):
    context = tls.create_context(settings(certificate, tls_client_ca=str(certificate / "ca.pem")))
    with served(tls=context) as server:
        with (
            pytest.raises((ssl.SSLError, ConnectionError, EOFError)),
            server.connect(client) as one,
        ):
            one.sendall(GET)
            read_answer(one)
        authority.issue_cert("me@example.org").configure_cert(client)
        with server.connect(client) as one:
            one.sendall(GET)
            assert read_answer(one)[0] == 200


def test_a_handshake_that_never_ends(certificate):
    context = tls.create_context(settings(certificate))
    with served(tls=context, header_timeout=0.3) as server, server.connect() as connection:
        assert read_all(connection) == b""
        with server.connect() as other:
            other.sendall(GET)  # no TLS at all
            assert b"HTTP" not in read_all(other)


def test_the_certificate_can_be_exchanged(certificate, client, authority):
    wanted = settings(certificate)
    context = tls.create_context(wanted)
    with served(tls=context) as server:
        with server.connect(client) as one:
            before = one.getpeercert()["serialNumber"]
        new = authority.issue_cert("localhost")
        new.cert_chain_pems[0].write_to_path(certificate / "cert.pem")
        new.private_key_pem.write_to_path(certificate / "key.pem")
        tls.load_certificate(context, wanted)
        with server.connect(client) as one:
            assert one.getpeercert()["serialNumber"] != before


@pytest.mark.parametrize("name", ["tls_cert", "tls_client_ca"])
def test_a_file_that_is_no_certificate(certificate, name):
    (certificate / "bad.pem").write_text("no certificate")
    values = {"tls_cert": str(certificate / "both.pem"), name: str(certificate / "bad.pem")}
    with pytest.raises(InputError, match=f"{name}: cannot use `.*bad.pem`: .*expected a PEM file"):
        tls.create_context(ServerSettings(**values))
