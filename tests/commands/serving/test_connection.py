"""Connections that take too long, ask too much or are cut."""

import contextlib
import http.client
import socket
import threading
import time

import pytest

from src.commands.serving import connection, messages
from tests.served import HEAD, ask, connect, picture, publish, received, request, running, until


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.2)
    monkeypatch.setattr(messages, "BODY_SECONDS", 0.2)
    publish()


def test_heads_that_do_not_end_are_closed_and_others_are_served():
    with running() as (server, port):
        slow = [connect(port, HEAD) for _ in range(20)] + [connect(port) for _ in range(5)]
        slow.append(connect(port, request(picture())))
        until(lambda: slow[-1].recv(4096).startswith(b"HTTP/1.1 200"))
        slow[-1].sendall(b"\r\n")  # which may come before a head, and must not keep the connection
        assert ask(port, picture())[0] == 200
        assert [received(each) for each in slow] == [b""] * 26
        until(lambda: not server.server_state.connections)


def test_a_body_that_does_not_end_gets_408():
    with running() as (_, port):
        reply = received(connect(port, request(picture())[:-5]))
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in reply


def test_connections_above_the_cap_get_503(monkeypatch):
    monkeypatch.setattr(connection, "CONNECTIONS", 3)
    with running() as (_, port):
        held = [connect(port, HEAD) for _ in range(3)]
        reply = received(connect(port))
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in reply
        for each in held:
            each.close()
        until(lambda: ask(port, picture())[0] == 200)


def test_an_idle_connection_makes_room_for_a_new_one(monkeypatch):
    monkeypatch.setattr(connection, "CONNECTIONS", 3)
    with running() as (_, port):
        held = [connect(port) for _ in range(3)]
        for each in (*held, held[0]):
            each.sendall(request(picture()))
            until(lambda each=each: each.recv(4096).startswith(b"HTTP/1.1 200 "))
            time.sleep(0.02)
        assert ask(port, picture())[0] == 200
        for each in (held[0], held[2]):
            each.sendall(request(picture()))
            until(lambda each=each: each.recv(4096).startswith(b"HTTP/1.1 200 "))
            each.close()


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_an_offer_of_another_protocol_is_ignored(name):
    offer = b"Connection: Upgrade, HTTP2-Settings\r\n%s: h2c\r\nHTTP2-Settings: AAMA\r\n" % name
    file = picture()
    with running() as (_, port):
        sent = HEAD + offer + b"Content-Length: %d\r\n\r\n" % len(file) + file
        with connect(port, sent) as stream:
            until(lambda: stream.recv(4096).startswith(b"HTTP/1.1 200 "))
            stream.sendall(request(file))
            until(lambda: stream.recv(4096).startswith(b"HTTP/1.1 200 "))


def test_what_is_no_request_after_one_does_not_take_its_answer():
    with running() as (_, port):
        assert received(connect(port, request(picture()) + b"no request\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert received(connect(port, b"no request\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


def test_a_head_that_is_too_long_is_refused():
    with running() as (server, port):
        for head in (b"a: b\r\n" * 20_000, b"a: " + b"x" * 100_000):
            with contextlib.suppress(ConnectionError):
                assert received(connect(port, HEAD + head)).startswith(b"HTTP/1.1 431 ")
        assert 'serve_requests_total{status="431"} 2\n' in server.app.metrics.text()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_one_line(sent):
    with running() as (_, port):
        reply = received(connect(port, sent))
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.endswith(b'\r\n\r\n{"error":"Invalid HTTP request received."}\n')


def test_requests_in_one_packet_are_answered_in_order_but_not_without_end():
    with running() as (server, port):
        with connect(port, b"".join(request(picture(i)) for i in range(20))) as connection:
            found = b""
            while found.count(b'"prediction"') < 20:
                found += connection.recv(65536)
        assert ask(port, picture())[0] == 200
        assert received(connect(port, b"GET /v2 HTTP/1.1\r\n\r\n" * 5000)).count(b"HTTP/1.1") < 300
        until(lambda: not server.server_state.connections)


def test_a_client_that_never_reads_is_closed():
    with running() as (server, port), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect(("127.0.0.1", port))
        with contextlib.suppress(ConnectionError):
            for _ in range(500):
                client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
                time.sleep(0.005)
        until(lambda: not server.server_state.connections)


def test_a_refused_body_is_read_to_its_end_so_that_the_client_sees_why(monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 5.0)
    with running(max_body=1000) as (_, port):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("POST", "/predict", bytes(3_000_000))
        assert client.getresponse().read().startswith(b'{"error":"the body may have at most 1,000 bytes')
        client.request("POST", "/predict", picture())
        assert client.getresponse().status == 200
        client.close()


def test_pictures_of_clients_that_left_are_not_predicted():
    with running() as (server, port):
        model = server.app.versions.current
        slow, compute = threading.Event(), model.compute
        model.compute = lambda pixels: slow.wait(10) and compute(pixels)
        first = connect(port, request(picture()))
        until(lambda: model.running)
        gone = [connect(port, request(picture())) for _ in range(5)]
        until(lambda: len(model.waiting) == 5)
        for each in gone:
            each.close()
        until(lambda: len(server.server_state.connections) == 1)
        slow.set()
        assert first.recv(100).startswith(b"HTTP/1.1 200")
        first.close()
        until(lambda: 'serve_requests_total{status="499"} 5\n' in server.app.metrics.text())
        assert "serve_batch_size_sum 1.0\n" in server.app.metrics.text()
