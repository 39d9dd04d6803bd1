"""Everything that fabmon raises on purpose.

    FabmonError
    ├── BadRequest           the caller must change something; trying again does not help
    │   ├── NotJson          the body is no JSON
    │   ├── NotAnArray       a batch is a JSON array
    │   ├── BadEncoding      a Content-Encoding that is not understood, or a damaged one
    │   ├── TooLarge         a body, or a batch, beyond its limit
    │   ├── BadEvent         one event breaks a rule; `code` says which
    │   ├── BadParameter     a query parameter is unknown or has a bad value
    │   ├── NotFound         no such route or thing
    │   ├── UnknownSite      central has no such site
    │   ├── Unauthorized     no token, or none that is known
    │   └── Forbidden        the token may not do this
    ├── Unavailable          may be tried again; nothing of the request was kept
    │   ├── Overloaded       more requests wait than the limit allows
    │   ├── StoreUnavailable the database does not answer
    │   ├── SpoolFull        the spool is at its bound, or its disk is full
    │   ├── SpoolFailed      the disk under the spool fails
    │   ├── PeerUnavailable  another fabmon does not answer, or says 5xx
    │   │   └── BrokenOff    it was silent and answers again, but not what it was asked before
    │   └── TooManyFailures  an address presented too many wrong tokens
    ├── PeerRefused          another fabmon answered, and says no to the request as a whole
    ├── SiteFailed           central: the one site that was asked gave no answer (502)
    │   └── SiteTooSlow      ... within the deadline (504)
    ├── SettingsError        a setting is wrong: exit code 2
    └── StartError           a role cannot start: exit code 1
        └── SchemaMismatch   the database's schema is behind or ahead

`httpd/problems.py` turns them into answers, `cli/main.py` into exit codes.
"""


class FabmonError(Exception):
    """The root; its text is one line that a person can act on."""


class BadRequest(FabmonError):
    code = "bad_request"

    def __init__(self, detail: str, code: str | None = None) -> None:
        super().__init__(detail)
        if code is not None:
            self.code = code


class NotJson(BadRequest):
    code = "not_json"


class NotAnArray(BadRequest):
    code = "not_an_array"


class BadEncoding(BadRequest):
    code = "bad_encoding"


class TooLarge(BadRequest):
    code = "too_large"


class BadEvent(BadRequest):
    code = "bad_event"


class BadParameter(BadRequest):
    code = "bad_parameter"

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(f"{parameter}: {detail}")
        self.parameter = parameter


class NotFound(BadRequest):
    code = "not_found"


class UnknownSite(BadRequest):
    code = "unknown_site"


class Unauthorized(BadRequest):
    code = "unauthorized"


class Forbidden(BadRequest):
    code = "forbidden"


class Unavailable(FabmonError):
    code = "unavailable"
    retry_after_seconds: float = 1.0

    def __init__(self, detail: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds


class Overloaded(Unavailable):
    code = "overloaded"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class SpoolFull(Unavailable):
    code = "spool_full"
    retry_after_seconds = 30.0


class SpoolFailed(Unavailable):
    code = "spool_failed"
    retry_after_seconds = 5.0


class PeerUnavailable(Unavailable):
    """*asked_to_wait_seconds* is what the answer's Retry-After says; *status* is None when there was no answer."""

    code = "peer_unavailable"

    def __init__(self, detail: str, status: int | None = None, asked_to_wait_seconds: float = 0.0) -> None:
        super().__init__(detail)
        self.status = status
        self.asked_to_wait_seconds = asked_to_wait_seconds


class BrokenOff(PeerUnavailable):
    """Worth another try at once."""


class TooManyFailures(Unavailable):
    code = "too_many_failures"


class PeerRefused(FabmonError):
    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class SiteFailed(FabmonError):
    code = "site_failed"

    def __init__(self, detail: str, status: str = "refused") -> None:
        super().__init__(detail)
        self.status = status


class SiteTooSlow(SiteFailed):
    code = "site_too_slow"


class SettingsError(FabmonError):
    """Names the setting and what to do."""


class StartError(FabmonError):
    """Names what does not work and what to do."""


class SchemaMismatch(StartError):
    """Names the command that mends it."""
