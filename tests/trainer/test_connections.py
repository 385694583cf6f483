"""Objects are read over connections that are kept open, with the certificates and proxies of the environment."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from requests.certs import where

from trainer import storage
from trainer.attempts import Unavailable
from trainer.files import cloud
from trainer.files.connections import Connections, trust
from trainer.options import InputError

BODY = b"contents" * 1000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.clients.append(self.client_address)
        self.send_response(200)
        self.send_header("X-Goog-Hash", "md5=abc")
        self.send_header("X-Goog-Hash", "crc32c=def")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:-1] if self.path == "/half" else BODY)
        if self.path in ("/half", "/last"):  # closes without having said so
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def do_POST(self) -> None:
        self.server.clients.append(self.client_address)
        refuses = self.path == "/refused"
        told = b"no" if refuses else self.rfile.read(int(self.headers["Content-Length"]))[::-1]
        self.send_response(403 if refuses else 200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)
        self.close_connection = refuses


@pytest.fixture
def place():
    """A server that remembers the addresses of its clients."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.clients, server.daemon_threads = [], True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def connections(server, scheme="http", context=None):
    return Connections(f"{scheme}://localhost:{server.server_port}", context, (5.0, 5.0))


def get(connections, path="/whole"):
    return connections.send(path, {"Accept-Encoding": "identity"})


def test_a_connection_is_used_again_until_the_server_has_closed_it(place):
    ours = connections(place)
    for path in ("/whole", "/whole", "/last"):
        answer = get(ours, path)
        assert (answer.status, answer.data) == (200, BODY)
    assert len(set(place.clients)) == 1
    assert get(ours).data == BODY and len(set(place.clients)) == 2


def test_every_line_of_a_header_counts_and_a_missing_one_has_a_default(place):
    answer = get(connections(place))
    assert answer.header("X-Goog-Hash") == "md5=abc, crc32c=def"
    assert answer.header("X-Other") is None and answer.header("X-Other", "none") == "none"


def test_a_connection_whose_answer_was_not_received_whole_is_not_used_again(place):
    ours = connections(place)
    with pytest.raises(IncompleteRead):
        get(ours, "/half")

    def refuse(size):
        raise OSError(f"{size} bytes")

    with pytest.raises(OSError, match="8000 bytes"):
        ours.send("/whole", {}, refuse)
    assert get(ours).data == BODY and len(set(place.clients)) == 3


def test_a_body_is_sent_part_by_part_over_the_same_connection(place):
    ours = connections(place)
    for parts in ((b"ab", b"c"), (b"",), (b"x" * 5000, b"y")):
        answer = ours.send("/", {"Content-Length": str(sum(map(len, parts)))}, body=iter(parts))
        assert (answer.status, answer.data) == (200, b"".join(parts)[::-1])
    assert len(set(place.clients)) == 1


def test_a_server_that_refuses_a_body_before_its_end_is_heard(place):
    ours, parts = connections(place), 64
    body = (bytes(1 << 20) for _ in range(parts))
    answer = ours.send("/refused", {"Content-Length": str(parts << 20)}, body=body)
    assert (answer.status, answer.data) == (403, b"no")
    assert get(ours).data == BODY and len(set(place.clients)) == 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> str:
    """The file of a certificate of "localhost", which is its own authority, and of its key."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]),
    )
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = tmp_path_factory.mktemp("certificate") / "server.pem"
    pem = serialization.Encoding.PEM
    file.write_bytes(key.private_bytes(pem, *form) + builder.sign(key, hashes.SHA256()).public_bytes(pem))
    return str(file)


def test_a_server_is_trusted_by_the_certificates_given_alone(place, certificate):
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate)
    place.socket = theirs.wrap_socket(place.socket, server_side=True)
    assert get(connections(place, "https", trust(certificate, None))).data == BODY
    with pytest.raises(ssl.SSLCertVerificationError):
        get(connections(place, "https", trust(where(), None)))


@pytest.mark.parametrize("fault", [ssl.SSLError(1, "bad record"), socket.gaierror(-3, "no name")], ids=["tls", "name"])
def test_faults_of_connections_are_tried_again_and_are_not_those_of_the_object(server, monkeypatch, fault):
    monkeypatch.setattr("trainer.attempts.WAITS", (0.0, 0.0))
    tried = []

    def fails(*arguments):
        tried.append(arguments)
        raise fault

    monkeypatch.setattr(cloud, "transfer", fails)
    with pytest.raises(Unavailable, match=f"gs://b/a: no complete answer .{type(fault).__name__}.*again to continue"):
        storage.read("gs://b/a")
    assert len(tried) == 3


def test_objects_are_read_through_the_proxy_that_the_environment_names(server, monkeypatch):
    storage.write("gs://b/a", BODY)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://storage.invalid")
    cloud.client.cache_clear()
    assert storage.read("gs://b/a") == BODY
    assert server.requests[-1][1].startswith("http://storage.invalid/download/")


@pytest.mark.parametrize("address", ["localhost:9023", "127.0.0.1:9023", "http://", "ftp://localhost"])
def test_an_address_of_an_emulator_without_its_scheme_is_refused(address, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    cloud.client.cache_clear()
    with pytest.raises(InputError, match=f"STORAGE_EMULATOR_HOST is '{address}'; expected http://HOST:PORT"):
        storage.read("gs://seg/a")
