"""What a role presents to another fabmon, and whom it trusts: read again when the files change, without a restart."""

import ssl
from pathlib import Path
from typing import Literal

from fabmon.errors import SettingsError
from fabmon.logs import Log
from fabmon.peer.tls import client_context
from fabmon.settings import CentralSettings, SidecarSettings
from fabmon.watch import Watch

log = Log("fabmon.peer")


class Credentials:
    """Files are looked at once a second at most; while they cannot be used, what was read before holds."""

    def __init__(
        self, token: str = "", token_file: str = "", *, ca: str = "", certificate: str = "", key: str = ""
    ) -> None:
        """*token* counts where there is no *token_file*. Raises SettingsError that names the file."""
        self._watch = Watch([token_file, ca, certificate, key])
        self._token_file = token_file
        self._token = read_token_file(token_file) if token_file else token
        self._tls_files = (ca, certificate, key)
        self._tls = self._context()

    def current(self) -> tuple[dict[str, str], ssl.SSLContext | Literal[True]]:
        """The headers and the TLS context for a call that begins now; True stands for the system's authorities."""
        if self._watch.changed():
            self._read_again()
        return ({"authorization": f"Bearer {self._token}"} if self._token else {}), self._tls

    def _read_again(self) -> None:
        try:
            token = read_token_file(self._token_file) if self._token_file else self._token
            tls = self._context()
        except SettingsError as error:
            log.error("credentials.unusable", reason=str(error), action="keeping those read before")
            return
        self._token, self._tls = token, tls
        log.info("credentials.read", files=",".join(filter(None, (self._token_file, *self._tls_files))))

    def _context(self) -> ssl.SSLContext | Literal[True]:
        return client_context(*self._tls_files) if any(self._tls_files) else True


def credentials_of(settings: SidecarSettings | CentralSettings) -> Credentials:
    files = {"ca": settings.ca, "certificate": settings.client_cert, "key": settings.client_key}
    return Credentials(settings.token, settings.token_file, **files)


def read_token_file(path: str) -> str:
    """Raises SettingsError, also when the file holds no token: it may be in the middle of a renewal."""
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"FABMON_TOKEN_FILE: {path!r} cannot be read: {error}") from None
    if not token:
        raise SettingsError(f"FABMON_TOKEN_FILE: {path!r} is empty")
    return token
