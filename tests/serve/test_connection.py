"""Clients that do not speak HTTP, or not to the end, over real sockets."""

import socket
import time

import pytest

from rexnet.serve import connection
from tests.serve.servers import by_hand, config, even, listening

PATIENCE_S = 0.4


@pytest.fixture(scope="module")
def address():
    settings = config(body_timeout_s=PATIENCE_S, max_body_mib=1)
    with listening(settings, registry=by_hand(even, settings)) as address:
        yield address


def asked(address: str, *sends: bytes, pause_s: float = 0.0) -> bytes:
    """All that the server says until it closes the connection."""
    host, port = address.split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=20) as client:
        try:
            for one in sends:
                client.sendall(one)
                time.sleep(pause_s)
            while received := client.recv(65536):
                said += received
        except ConnectionError:  # closed while something was still being sent
            pass
    return said


@pytest.mark.parametrize(
    "noise", [b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"]
)
def test_what_is_no_http_is_refused_in_json(address, noise):
    said = asked(address, noise)
    assert said.startswith(b"HTTP/1.1 400") and b'"error"' in said


def test_a_client_that_says_nothing_is_cut_off(address):
    assert asked(address) == b""


def test_headers_in_drops_are_cut_off(address):
    assert asked(address, b"GET / HTTP/1.1\r\n", *[b"a"] * 20, pause_s=0.05) == b""


def test_a_body_in_drops_is_cut_off_with_a_sentence(address):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    said = asked(address, head, *[b"a"] * 5, pause_s=0.01)
    assert said.startswith(b"HTTP/1.1 408") and b"had not arrived" in said


def test_headers_without_end_are_cut_off(address):
    assert asked(address, b"GET / HTTP/1.1\r\n", *[b"a: " + b"b" * 65536 + b"\r\n"] * 20) == b""
    assert asked(address, b"GET / HTTP/1.1\r\na: ", *[b"b" * 65536] * 20) == b""


def test_trailers_without_end_are_cut_off(address):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    said = asked(address, head, *[b"a: " + b"b" * 65536 + b"\r\n"] * 20)
    assert said == b"" or said.startswith(b"HTTP/1.1 4")


def test_chunks_beyond_the_cap_are_refused(address):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    said = asked(address, head, *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 20, b"0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413")


def test_two_lengths_are_refused(address):
    said = asked(address, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")
    assert said.startswith(b"HTTP/1.1 400")
    both = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert asked(address, both).startswith(b"HTTP/1.1 400")


def test_others_are_answered_meanwhile(address):
    host, port = address.split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(20)]
    for client in slow:
        client.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 10\r\n\r\nx")
    said = asked(address, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200")
    for client in slow:
        client.close()


def test_a_client_that_leaves_harms_nobody(address):
    host, port = address.split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 10\r\n\r\nx")
    said = asked(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'status="gone"' in said


def test_too_many_clients_are_turned_away_in_json(address, monkeypatch):
    monkeypatch.setattr(connection, "_MOST_CONNECTIONS", 0)
    said = asked(address, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in said.lower() and b'"error"' in said
