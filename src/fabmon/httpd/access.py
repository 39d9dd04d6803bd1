"""Who may do what: the token of a request, its scope, its sites.

Without a tokens file nothing of this is in the way of a request. With one, each costs a hash and a look into a dict: the
dict is asked for the hash, so the time that takes tells nothing about a token, and the comparison after it is constant.

    /livez /readyz                      nobody asks
    /v1/healthz /metrics                `read`, except from loopback
    /v1/ingest/… and other front doors  `ingest`; a site-bound token's events only of its sites
    everything else, also what does     `read`; a site-bound token sees its sites only
    not exist                           (`admin` may do all of it)
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from fabmon.errors import FabmonError, Forbidden, SettingsError, TooManyFailures, Unauthorized
from fabmon.hosts import is_loopback
from fabmon.httpd.bound import allowed_sites
from fabmon.httpd.failures import Failures
from fabmon.httpd.problems import on_fabmon_error
from fabmon.httpd.tokens import ScopeName, Token, read_tokens
from fabmon.logs import Log
from fabmon.metrics import REFUSED
from fabmon.watch import Watch

log = Log("fabmon.access")

_OPEN: Final = frozenset({"/livez", "/readyz"})
_OPEN_FROM_HERE: Final = frozenset({"/v1/healthz", "/metrics"})
_DOORS: Final = ("/v1/ingest/", "/v1/ping/", "/api/v1/lineage")
# Lists that can be narrowed to a site by the caller; what a proxy adds, so that its loopback address proves nothing.
_NARROWED: Final = frozenset({"/v1/jobs", "/v1/subjobs", "/v1/stream"})
_PROXIED: Final = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})


class Access:
    """The tokens in force. The file is looked at once a second at most; while it is wrong the last good ones hold."""

    def __init__(self, path: Path, site_id: str | None = None, *, asks_sites: bool = False) -> None:
        """*site_id*: the one that this role serves; *asks_sites*: central, where `site` says whose answer is wanted.

        Raises SettingsError when the file cannot be used.
        """
        self._path = path
        self.site_id = site_id
        self.asks_sites = asks_sites
        self._watch = Watch([path])
        tokens = read_tokens(path)
        if not tokens:
            raise SettingsError(f"FABMON_TOKENS_FILE: {path} holds no token; `fabmon token new` adds one")
        self._by_hash = _by_hash(tokens)

    def find(self, secret: bytes) -> Token | None:
        """The token, when it is known and not expired."""
        if self._watch.changed():
            self._read_again()
        found = hashlib.sha256(secret).digest()
        entry = self._by_hash.get(found)
        if entry is None or not hmac.compare_digest(entry[0], found) or entry[1].is_expired():
            return None
        return entry[1]

    def _read_again(self) -> None:
        try:
            tokens = read_tokens(self._path)
        except SettingsError as error:
            log.error("tokens.unusable", reason=str(error), action=f"keeping the {len(self._by_hash)} read before")
            return
        self._by_hash = _by_hash(tokens)
        log.info("tokens.read", file=self._path, tokens=len(tokens))


class Guarded:
    """ASGI middleware: lets through what its token may do, and says why not, without a hint at what exists."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._failures = Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if path in _OPEN or (path in _OPEN_FROM_HERE and _is_from_here(scope)) or scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        needed = scope_of(path) or "read"
        try:
            token = self._admit(scope, needed)
        except FabmonError as error:
            answer = await on_fabmon_error(Request(scope), error)
            await answer(scope, receive, send)
            return
        if token.sites is None:
            await self._app(scope, receive, send)
            return
        before = allowed_sites.set(frozenset(token.sites))
        try:
            await self._app(scope, receive, send)
        finally:
            allowed_sites.reset(before)

    def _admit(self, scope: Scope, needed: ScopeName) -> Token:
        secret = _bearer(scope["headers"])
        token = self._access.find(secret) if secret else None
        if token is None:
            why = "unknown or expired token" if secret else "no token"
            raise self._refused(scope, why, Unauthorized("a valid token is needed: Authorization: Bearer TOKEN"))
        if not token.may(needed):
            raise self._refused(scope, f"no scope {needed}", Forbidden("the token may not do this"), token)
        if needed == "read" and token.sites is not None and not self._may_see(scope, token.sites):
            raise self._refused(scope, "another site", Forbidden("the token may not do this"), token)
        return token

    def _may_see(self, scope: Scope, sites: Sequence[str]) -> bool:
        """A local answers for its one site; one that serves several must be asked for a site by name."""
        if self._access.asks_sites or scope["path"] in _OPEN_FROM_HERE:
            return True  # central: the other sites do not exist for this request (bound.Visible)
        if self._access.site_id is not None:
            return self._access.site_id in sites
        asked = [value for name, value in parse_qsl(scope["query_string"].decode("latin-1")) if name == "site_id"]
        return scope["path"] in _NARROWED and len(asked) == 1 and set(asked[0].split(",")) <= set(sites)

    def _refused(self, scope: Scope, why: str, error: FabmonError, token: Token | None = None) -> FabmonError:
        """Leave one line for those who ask later; beyond the rate one that counts, and 429."""
        address = scope["client"][0] if scope.get("client") else "unknown"
        path = scope.get("raw_path", b"").decode("latin-1")[:200]
        facts: dict[str, object] = {"address": address, "method": scope["method"], "path": path}
        if token is not None:
            facts |= {"token": token.name, "token_id": token.id}
        within, unsaid = self._failures.count(address)
        REFUSED.labels(getattr(error, "code", "") if within else TooManyFailures.code).inc()
        if not within:
            if unsaid.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, …: noise must not become the log's
                log.warning("access.throttled", address=address, refused_without_a_line=unsaid)
            return TooManyFailures("too many failed attempts from this address")
        log.warning("access.refused", why=why, **facts)
        return error


def scope_of(path: str) -> ScopeName | None:
    """What a token must have for *path*, whether there is such a route or not; None where nobody asks."""
    if path in _OPEN:
        return None
    return "ingest" if path.startswith(_DOORS) else "read"


def open_access(tokens_file: str, site_id: str | None = None, *, asks_sites: bool = False) -> Access | None:
    """The tokens of the file; None when there is none: everything is open, and `run.py` stays on loopback."""
    return Access(Path(tokens_file), site_id, asks_sites=asks_sites) if tokens_file else None


def _bearer(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The token of the one Authorization header; empty without one, or with several."""
    found = [value for name, value in headers if name == b"authorization"]
    if len(found) != 1:
        return b""
    scheme, _, secret = found[0].partition(b" ")
    return secret.strip() if scheme.lower() == b"bearer" else b""


def _is_from_here(scope: Scope) -> bool:
    client = scope.get("client")
    is_here = client is not None and is_loopback(client[0])
    return is_here and not any(name in _PROXIED for name, _ in scope["headers"])


def _by_hash(tokens: Sequence[Token]) -> Mapping[bytes, tuple[bytes, Token]]:
    raw = [(bytes.fromhex(token.hash.removeprefix("sha256:")), token) for token in tokens]
    return {digest: (digest, token) for digest, token in raw}
