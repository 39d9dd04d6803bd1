"""TLS of a role's own door: its certificate, and the CA whose certificates callers must present."""

import ssl
from collections.abc import Callable
from typing import Any, ClassVar, Final

from fabmon.clock import monotonic
from fabmon.errors import SettingsError
from fabmon.logs import Log
from fabmon.watch import Watch

log = Log("fabmon.tls")

_ONE_LINE_EVERY_SECONDS: Final = 1.0


def server_context(certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
    """TLS 1.2 or newer with our certificate; with *client_ca* only callers who present one of that CA get in.

    Raises SettingsError that names the file.
    """
    if not certificate:
        raise SettingsError("FABMON_TLS_CERT is not set: FABMON_TLS_KEY and FABMON_TLS_CLIENT_CA need it")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, certificate, key)
    if client_ca:
        _load_authorities(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    context.sslobject_class = _Noted
    return context


def renewed_context(certificate: str, key: str, client_ca: str) -> tuple[ssl.SSLContext, Callable[[], None]]:
    """As `server_context`, and what to call now and then: new connections get what the files hold by then.

    While they cannot be used, as in the middle of a renewal, the one read before holds.
    """
    watch = Watch([certificate, key, client_ca])
    context = server_context(certificate, key, client_ca)

    def look() -> None:
        if not watch.changed():
            return
        try:
            fresh = server_context(certificate, key, client_ca)
        except SettingsError as error:
            log.error("tls.unusable", reason=str(error), action="keeping the certificate read before")
            return

        def swap(connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = fresh

        # Called for every handshake, also without a name. A context takes further CAs, and gives none up: hence a new one.
        context.sni_callback = swap
        log.info("tls.renewed", certificate=certificate)

    return context, look


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """*key* may be empty when it stands in the certificate's file; a pass phrase is refused, nobody could type it."""

    def no_pass_phrase() -> str:
        raise SettingsError(f"FABMON_TLS_KEY: {key or certificate} has a pass phrase; give a key without one")

    try:
        context.load_cert_chain(certificate, key or None, no_pass_phrase)
    except FileNotFoundError:
        raise SettingsError(
            f"FABMON_TLS_CERT or FABMON_TLS_KEY: {certificate} or {key or certificate} is not there"
        ) from None
    except OSError as error:
        why = getattr(error, "reason", None) or error.strerror
        raise SettingsError(
            f"FABMON_TLS_CERT and FABMON_TLS_KEY: {certificate} with {key or certificate}: {why}"
        ) from None


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:
        why = getattr(error, "reason", None) or error.strerror
        raise SettingsError(f"FABMON_TLS_CLIENT_CA: {path}: {why or 'holds no certificate'}") from None


class _Noted(ssl.SSLObject):
    """Says why a handshake failed; asyncio ends such a connection without a word."""

    said_at: ClassVar[float] = -_ONE_LINE_EVERY_SECONDS
    unsaid: ClassVar[int] = 0
    _state = "new"

    def do_handshake(self) -> None:
        self._state = "begun"
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._state = "failed"
            _say(getattr(error, "verify_message", None) or error.reason or str(error))
            raise
        self._state = "done"

    def __del__(self) -> None:
        # asyncio's clients send no alert: all that is seen of them is that they are gone.
        if self._state == "begun":
            _say("the caller broke off the handshake; perhaps it does not accept our certificate")


def _say(reason: str) -> None:
    """One line a second at most; the next one counts what was left out."""
    if monotonic() - _Noted.said_at < _ONE_LINE_EVERY_SECONDS:
        _Noted.unsaid += 1
        return
    log.warning("tls.refused", reason=reason, refused_without_a_line=_Noted.unsaid, action="connection closed")
    _Noted.said_at, _Noted.unsaid = monotonic(), 0
