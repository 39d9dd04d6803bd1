"""TLS towards another fabmon: whose certificate is accepted, and which one is presented."""

import errno
import ssl

from fabmon.errors import SettingsError


def client_context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """The system's authorities, or *ca* alone; *certificate* is presented to a server that asks for one.

    Raises SettingsError that names the file.
    """
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise SettingsError(f"FABMON_CA: {ca}: {_why(error) or 'holds no certificate'}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if key and not certificate:
        raise SettingsError("FABMON_CLIENT_CERT is not set: FABMON_CLIENT_KEY needs it")
    if certificate:
        _load(context, certificate, key)
    return context


def handshake_failure(error: BaseException) -> str:
    """What a person can act on, when *error*, of an https URL, comes of TLS; else empty."""
    found = _ssl_error(error)
    if found is None:
        return _broken_off(error)
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {found.verify_message} (FABMON_CA)"
    reason = (found.reason or str(found)).lower().replace("_", " ")
    if "alert certificate required" in reason or "alert handshake failure" in reason:
        return "it wants a client certificate (FABMON_CLIENT_CERT)"
    if "alert" in reason and ("unknown ca" in reason or "certificate" in reason):
        return f"it refuses our client certificate: {reason} (FABMON_CLIENT_CERT)"
    return f"TLS: {reason}"


def _broken_off(error: BaseException) -> str:
    """asyncio's servers refuse a certificate by closing, without a word; what it may mean is said here."""
    is_reset = isinstance(error, OSError) and error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)
    if is_reset or type(error).__name__ == "ServerDisconnectedError":
        return "closed the connection without an answer; does it ask for a client certificate? (FABMON_CLIENT_CERT)"
    return ""


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    def no_pass_phrase() -> str:
        raise SettingsError(f"FABMON_CLIENT_KEY: {key or certificate} has a pass phrase; give a key without one")

    try:
        context.load_cert_chain(certificate, key or None, no_pass_phrase)
    except OSError as error:
        raise SettingsError(
            f"FABMON_CLIENT_CERT and FABMON_CLIENT_KEY: {certificate} with {key or certificate}: {_why(error)}"
        ) from None


def _why(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or ""


def _ssl_error(error: BaseException) -> ssl.SSLError | None:
    seen: BaseException | None = error
    while seen is not None:
        # aiohttp's wrapper calls itself an SSLError too, without what one says: the wrapped one first.
        for each in (getattr(seen, "certificate_error", None), getattr(seen, "os_error", None), seen):
            if isinstance(each, ssl.SSLError) and each.args:
                return each
        seen = seen.__cause__ or seen.__context__
    return None
