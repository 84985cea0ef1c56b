"""A stop that loses no request."""

import os
import socket
import threading

import pytest

from tests.served import ask, picture, publish, received, request, running, until


def load(port: int, lost: list[Exception], statuses: list[int]) -> None:
    """Send requests one after the other until nobody listens."""
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            return
        try:
            connection.sendall(request(picture()).replace(b"Host", b"Connection: close\r\nHost"))
            statuses.append(int(received(connection)[9:12]))
        except (OSError, ValueError) as error:
            lost.append(error)


def test_no_request_is_lost_when_a_version_is_replaced_and_the_server_stops():
    publish()
    lost: list[Exception] = []
    statuses: list[int] = []
    with running() as (server, port):
        clients = [threading.Thread(target=load, args=(port, lost, statuses)) for _ in range(8)]
        for each in clients:
            each.start()
        for number in (2, 3):
            publish(seed=number)
            until(lambda number=number: server.app.versions.current.number == number)
        assert ask(port, path="/v2/health/ready", method="GET")[0] == 200
    for each in clients:
        each.join(30)
    assert lost == []
    assert {*statuses} == {200}
    assert len(statuses) > 8


def test_the_second_signal_stops_at_once():
    publish()
    with running() as (server, _):
        server.app.settings.__dict__["drain"] = 600.0
        server.handle_exit(15, None)
        assert server.app.draining
        assert not server.should_exit
        server.handle_exit(15, None)
        assert server.should_exit
        assert server.force_exit


@pytest.mark.parametrize("sent", [2, 1, 15])  # SIGINT, SIGHUP, SIGTERM
@pytest.mark.parametrize("supervised", [False, True])
def test_a_worker_leaves_signals_of_the_terminal_to_its_supervisor(sent, supervised):
    publish()
    with running() as (server, _):
        server.supervised = supervised
        server.parent = os.getppid()
        server.app.settings.__dict__["drain"] = 600.0
        server.handle_exit(sent, None)
        assert server.app.draining == (sent == 15 or not supervised)
        server.app.settings.__dict__["drain"] = 0.0
        server.until = 0.0
