"""One kept-alive connection to the sidecar, over which batches of events are posted.

While an answer is awaited, *meanwhile* is called every few hundredths of a second: the one background thread must go on
taking events off a job's hands when the sidecar accepts the connection and then says nothing.
"""

import os
import selectors
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fabmon.clock import monotonic
from fabmon.errors import PeerRefused
from fabmon.sdk.address import Address, read_token
from fabmon.wire.codec import decode_object

if TYPE_CHECKING:
    from http.client import HTTPConnection
    from ssl import SSLSocket

CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 1.5
SLICE_SECONDS: Final = 0.02
ANSWER_LIMIT_BYTES: Final = 64 * 1024

# Answers that the same request would get again, whatever changes around it.
_NEVER_TAKEN: Final = frozenset({400, 413, 415, 422})

# A fork in the middle of an import leaves the child with half a module for good: it waits until the import is over.
_importing: Final = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release
    )


class Post:
    """The connection: opened when needed, kept while the sidecar keeps it. One thread at a time."""

    def __init__(self, address: Address, environment: Mapping[str, str], meanwhile: Callable[[], None]) -> None:
        self._address = address
        self._environment = environment
        self._meanwhile = meanwhile
        self._connection: HTTPConnection | None = None
        self._headers: dict[str, str] = {}

    def batch(self, lines: Sequence[bytes]) -> str | None:
        """Post *lines*, each an event. None when all were taken; else why some never will be, in a line.

        Raises OSError, HTTPException or PeerRefused when nothing is known to be taken and a later try may do better.
        """
        status, answer, reason = self._ask(b"[" + b",".join(lines) + b"]")
        refused = answer.get("rejected")
        if isinstance(refused, list) and (200 <= status < 300 or status == 422):
            first = refused[0] if refused and isinstance(refused[0], dict) else {}
            return f"the sidecar answered {status}: {first.get('detail')}"[:500] if refused else None
        if 200 <= status < 300:
            return None
        if status not in _NEVER_TAKEN:
            raise PeerRefused(f"the sidecar answered {status}: {answer.get('detail') or reason}"[:500], status)
        if len(lines) == 1:
            return f"the sidecar answered {status}: {answer.get('detail') or reason}"[:500]
        middle = len(lines) // 2  # one of them spoils the whole request
        first_half, second_half = self.batch(lines[:middle]), self.batch(lines[middle:])
        return first_half or second_half

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, body: bytes) -> tuple[int, dict[str, Any], str]:
        was_open = self._connection is not None and self._connection.sock is not None
        try:
            return self._ask_once(body)
        except (ConnectionError, BrokenPipeError) as error:
            # A connection that idled may have been closed from the other side; RemoteDisconnected is among these.
            self.close()
            if not was_open or isinstance(error, ConnectionRefusedError):
                raise
            return self._ask_once(body)
        except BaseException:
            self.close()
            raise

    def _ask_once(self, body: bytes) -> tuple[int, dict[str, Any], str]:
        connection = self._connection
        if connection is None or connection.sock is None:
            connection = self._connection = self._open()
        connection.request("POST", f"{self._address.path}/v1/ingest/events:batch", body=body, headers=self._headers)
        _wait(connection.sock, selectors.EVENT_READ, ANSWER_SECONDS, self._meanwhile)
        answer = connection.getresponse()
        read = answer.read(ANSWER_LIMIT_BYTES)
        if not answer.isclosed():
            self.close()
        return answer.status, decode_object(read) or {}, answer.reason

    def _open(self) -> "HTTPConnection":
        with _importing:
            import encodings.idna  # noqa: F401  (getaddrinfo would, behind our back)
            from http import client  # takes longer to import than all the rest: here, the job already runs

            if self._address.secure:
                import fabmon.peer.tls  # noqa: F401  (with ssl)
        self._headers = {"Content-Type": "application/json"}
        if token := read_token(self._environment):
            self._headers["Authorization"] = f"Bearer {token}"
        kind = client.HTTPSConnection if self._address.secure else client.HTTPConnection
        connection = kind(self._address.host, self._address.port, timeout=ANSWER_SECONDS)
        sock = _connect(self._address.host, self._address.port, self._meanwhile)
        try:
            sock.settimeout(ANSWER_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._address.secure:
                sock = self._secured(sock)
        except BaseException:
            sock.close()
            raise
        connection.sock = sock
        return connection

    def _secured(self, sock: socket.socket) -> "SSLSocket":
        """*sock* with TLS, as FABMON_CA, FABMON_CLIENT_CERT and FABMON_CLIENT_KEY say. Raises PeerRefused, OSError."""
        import ssl

        from fabmon.peer.tls import client_context, handshake_failure

        files = [self._environment.get(f"FABMON_{name}", "") for name in ("CA", "CLIENT_CERT", "CLIENT_KEY")]
        deadline = monotonic() + ANSWER_SECONDS
        secured = client_context(*files).wrap_socket(
            sock, server_hostname=self._address.host, do_handshake_on_connect=False
        )
        secured.setblocking(False)
        try:
            while True:
                try:
                    secured.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    _wait(secured, selectors.EVENT_READ, deadline - monotonic(), self._meanwhile)
                except ssl.SSLWantWriteError:
                    _wait(secured, selectors.EVENT_WRITE, deadline - monotonic(), self._meanwhile)
        except BaseException as error:
            secured.close()
            if isinstance(error, ssl.SSLError):
                raise PeerRefused(handshake_failure(error), status=0) from None
            raise
        secured.settimeout(ANSWER_SECONDS)
        return secured


def _connect(host: str, port: int, meanwhile: Callable[[], None]) -> socket.socket:
    """A connected socket, from the first of the host's addresses that answers. Raises OSError."""
    trouble: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            if sock.connect_ex(address) != 0:
                _wait(sock, selectors.EVENT_WRITE, CONNECT_SECONDS, meanwhile)
            if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, f"connect to {host}:{port}")
            sock.getpeername()  # raises when it is not connected after all
            return sock
        except OSError as error:
            sock.close()
            trouble = error
    raise trouble or OSError(f"{host} has no address")


def _wait(sock: socket.socket, event: int, within_seconds: float, meanwhile: Callable[[], None]) -> None:
    """Until *sock* is ready. Raises TimeoutError."""
    deadline = monotonic() + within_seconds
    with selectors.DefaultSelector() as selector:
        selector.register(sock, event)
        while not selector.select(SLICE_SECONDS):
            meanwhile()
            if monotonic() > deadline:
                raise TimeoutError(f"no answer within {within_seconds:g} s")
