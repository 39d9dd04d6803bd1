"""What one caller may cost: slow, silent, endless and too many connections beside one that behaves."""

import contextlib
import resource
import socket
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from tests.fixtures.roles import Service, StartRole, eventually
from tests.make import event_bytes

SLOW_CONNECTIONS = 2000
ROUNDS = 5  # one pause of the machine is not the server's
HEAD = b"POST /v1/ingest/events HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n"


@pytest.fixture
def strict(make_role: StartRole) -> Service:
    """A sidecar whose site is away: it answers by itself."""
    settings = {"FABMON_REQUEST_TIMEOUT_S": "1", "FABMON_KEEP_ALIVE_S": "1", "FABMON_HEAD_MAX_BYTES": "4096"}
    return make_role("sidecar", FABMON_LOCAL_URL="http://127.0.0.1:1", FABMON_MAX_CONNECTIONS="16", **settings).start()


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), 10)


def answer(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def one_answer(connection: socket.socket) -> bytes:
    """One small answer; head and body come in pieces."""
    said = b""
    while not said.endswith(b"}"):
        part = connection.recv(65536)
        assert part, said
        said += part
    return said


def test_a_byte_a_second_is_closed_wherever_it_is_in_the_request(strict: Service) -> None:
    head = b"GET /livez HTTP/1.1\r\nhost"
    for begin, rest in ((b"", head), (b"\r\n", head), (head, b": " + head), (HEAD, head), (HEAD + b'{"a":', head)):
        with connect(strict) as slow:
            begun = time.monotonic()
            slow.sendall(begin)
            stopped = threading.Event()
            drip = threading.Thread(target=_drip, args=(slow, rest, stopped))
            drip.start()
            said = answer(slow)
            took = time.monotonic() - begun
            stopped.set()
            drip.join()
        assert 0.9 <= took <= 5.0, (begin, took)  # and not when the dripping ends, after seven seconds
        assert said.startswith(b"HTTP/1.1 408 "), (begin, said)
        assert b'"code":"request_too_slow"' in said
    assert strict.get("/livez").status == 200
    assert "Exception" not in strict.log
    assert 'fabmon_closed_connections_total{reason="too_slow"} 5.0' in strict.get("/metrics").body.decode()


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(strict: Service) -> None:
    with connect(strict) as kept:
        for _ in range(8):
            kept.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert one_answer(kept).startswith(b"HTTP/1.1 200")
            time.sleep(0.2)
        assert answer(kept) == b""


def test_a_head_that_is_too_large_is_431(strict: Service) -> None:
    for head in (
        b"GET /livez HTTP/1.1\r\nx: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(600)) + b"\r\n",
        b"GET /livez HTTP/1.1\r\nx: " + b"a" * 100_000,  # and no end
    ):
        with connect(strict) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(head)
            said = answer(connection)
            assert said.startswith(b"HTTP/1.1 431 "), (head[:40], said[:200])
            assert b'"code":"head_too_large"' in said
    with connect(strict) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nx: " + b"a" * 3900 + b"\r\n\r\n")
        assert one_answer(connection).startswith(b"HTTP/1.1 200")
        # The limit is for each request, not for the connection.
        connection.sendall(b"GET /livez HTTP/1.1\r\nx: " + b"a" * 3900 + b"\r\n\r\n")
        assert one_answer(connection).startswith(b"HTTP/1.1 200")


def test_a_large_body_does_not_count_as_a_head(strict: Service) -> None:
    body = event_bytes(metadata={"filler": "x" * 50_000})
    assert strict.post("/v1/ingest/events", body).status == 200


def test_nonsense_is_a_problem_document(strict: Service) -> None:
    with connect(strict) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not HTTP\r\n\r\n")
        said = answer(connection)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in said


def test_connections_beyond_the_limit_get_503(make_role: StartRole) -> None:
    strict = make_role("sidecar", FABMON_LOCAL_URL="http://127.0.0.1:1", FABMON_MAX_CONNECTIONS="16").start()
    with contextlib.ExitStack() as held:
        kept = [held.enter_context(connect(strict)) for _ in range(16)]
        for connection in kept:
            connection.sendall(b"GET /livez HTTP/1.1\r\nhost")
        with connect(strict) as excess:
            excess.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            said = answer(excess)
        assert said.startswith(b"HTTP/1.1 503 "), said
        assert b"retry-after: 1" in said
        flood = [held.enter_context(connect(strict)) for _ in range(40)]
        eventually(lambda: _closed(flood) >= 25)  # past a margin nothing is held open to wait for an answer
    eventually(lambda: strict.get("/livez").status == 200)


def test_a_caller_that_does_not_read_its_answer_is_cut_off(strict: Service) -> None:
    with connect(strict) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        begun = time.monotonic()
        deaf.settimeout(0.5)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun < 30:
                with contextlib.suppress(TimeoutError):
                    deaf.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
                time.sleep(0.05)
        assert time.monotonic() - begun < 30
    assert 'reason="not_reading"' in strict.get("/metrics").body.decode()


def test_slow_connections_leave_a_healthy_caller_its_answers(make_role: StartRole) -> None:
    """2,000 that send a byte now and then; a healthy one's p99 stays within five times that of one at a quiet server.

    The two are asked in turn: what else the machine does, it does to both.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < SLOW_CONNECTIONS + 200:
        pytest.fail(f"only {hard} open files: ulimit -n {SLOW_CONNECTIONS + 200} at least")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, SLOW_CONNECTIONS + 200), hard))
    settings = {"FABMON_LOCAL_URL": "http://127.0.0.1:1", "FABMON_REQUEST_TIMEOUT_S": "300"}
    service, other = (make_role("sidecar", **settings).start() for _ in range(2))
    for each in (service, other):
        each.post("/v1/ingest/events", event_bytes())
    with contextlib.ExitStack() as held:
        slow = [held.enter_context(connect(service)) for _ in range(SLOW_CONNECTIONS)]
        for connection in slow:
            connection.sendall(HEAD)
        with _dripping(slow):
            took = [(_p99(other), _p99(service)) for _ in range(ROUNDS)]
        # They were all really there.
        assert len(slow) - _closed(slow) == SLOW_CONNECTIONS
    assert statistics.median(busy / quiet for quiet, busy in took) <= 5, took


def _p99(service: Service) -> float:
    took = []
    with connect(service) as connection:
        body = event_bytes()
        request = HEAD.replace(b"900", b"%d" % len(body)) + body
        for _ in range(200):
            begun = time.monotonic()
            connection.sendall(request)
            assert one_answer(connection).startswith(b"HTTP/1.1 200")
            took.append(time.monotonic() - begun)
    return sorted(took)[197]


@contextlib.contextmanager
def _dripping(slow: list[socket.socket]) -> Iterator[None]:
    stopped = threading.Event()

    def drip() -> None:
        while not stopped.is_set():
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.send(b" ")
                if stopped.wait(0.0005):
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _drip(connection: socket.socket, rest: bytes, stopped: threading.Event) -> None:
    for place in range(len(rest)):
        if stopped.wait(0.3):
            return
        with contextlib.suppress(OSError):
            connection.send(rest[place : place + 1])


def _closed(connections: list[socket.socket]) -> int:
    """How many of them the other side has closed."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            count += connection.recv(1) == b""
        except BlockingIOError:
            pass
        except OSError:
            count += 1
    return count
