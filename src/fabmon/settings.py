"""The settings of each role: one frozen struct, read once at start from flags and `FABMON_*` variables.

A field's name is its variable's name (`spool_dir` is FABMON_SPOOL_DIR) and its flag's; its bounds are in its type, its
meaning in `Meta(description=...)`, from which docs/configuration.md is made. A secret may also come from a file, named by
the variable with `_FILE` behind it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta

from fabmon.errors import SettingsError
from fabmon.places import default_data_dir
from fabmon.wire.event import SITE_ID_PATTERN

Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]

PREFIX: Final = "FABMON_"
SECRETS: Final = frozenset({"token", "database_url"})
# Known names that no role reads: they belong to the command line, to jobs and to the tests.
OTHER_NAMES: Final = frozenset(
    {"FABMON_URL", "FABMON_APP", "FABMON_JOB_ID", "FABMON_EVENTS_FD", "FABMON_TEST_DATABASE_URL"}
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What every role has."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    allow_anonymous: Annotated[bool, Meta(description="Listen beyond loopback without tokens.")] = False
    tokens_file: Annotated[
        str, Meta(description="Accepted tokens, hashed (`fabmon token`); empty: no token is asked for.")
    ] = ""
    data_dir: Annotated[
        str,
        Meta(
            description="Where embedded data and, by default, the spool live; empty: /var/lib/fabmon for root,"
            " ~/.local/state/fabmon for others."
        ),
    ] = ""
    log_level: Annotated[
        str, Meta(pattern="^(debug|info|warning|error)$", description="Least level logged, from debug to error.")
    ] = "info"
    request_log: Annotated[
        bool, Meta(description="A line for each request, at `info`; none for health checks that went well.")
    ] = True
    tls_cert: Annotated[str, Meta(description="Certificate chain (PEM) to serve HTTPS with; empty: plain HTTP.")] = ""
    tls_key: Annotated[str, Meta(description="Its key, without a pass phrase; empty: it stands in tls_cert.")] = ""
    tls_client_ca: Annotated[str, Meta(description="CA (PEM); callers must present a certificate of it.")] = ""
    max_connections: Annotated[
        int, Meta(ge=8, le=1_000_000, description="Most connections at a time; past that 503.")
    ] = 4000
    request_timeout_s: Annotated[
        Seconds, Meta(description="Time for a caller to send one request, or to go on reading an answer.")
    ] = 30.0
    keep_alive_s: Annotated[Seconds, Meta(description="How long an idle connection stays open.")] = 75.0
    head_max_bytes: Annotated[
        int, Meta(ge=1024, le=1024**2, description="Most bytes of a request line with its headers; past that 431.")
    ] = 65_536
    stop_timeout_s: Annotated[Seconds, Meta(description="Time to finish accepted requests after SIGTERM.")] = 10.0

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir) if self.data_dir else Path(default_data_dir())


class SpoolSettings(Settings, frozen=True, kw_only=True):
    """What the roles with a spool have."""

    spool_dir: Annotated[
        str, Meta(description="The spool; empty: `sidecar-spool` or `local-spool` in data_dir, by the role.")
    ] = ""
    spool_max_bytes: Annotated[
        int, Meta(ge=1024 * 1024, description="Most bytes in the spool; past that new events get 507.")
    ] = 1024**3
    spool_policy: Annotated[
        str, Meta(pattern="^(reject|drop_oldest)$", description="At the bound: `reject` new events, or `drop_oldest`.")
    ] = "reject"
    spool_max_age_s: Annotated[
        float, Meta(ge=0, le=10**9, description="Pending events older than this are dropped and counted; 0: never.")
    ] = 0.0
    spool_min_free_bytes: Annotated[
        int, Meta(ge=0, description="New events get 507 when the disk would have less left than this; 0: no bound.")
    ] = 0
    drain_share: Annotated[
        float, Meta(ge=0.01, le=1, description="While fresh events come, the part of the time that the backlog gets.")
    ] = 0.5


class SidecarSettings(SpoolSettings, frozen=True, kw_only=True):
    port: Annotated[Port, Meta(description="Port to listen on.")] = 8000
    site_id: Annotated[str, Meta(pattern=f"{SITE_ID_PATTERN}|^$", description="Only events of this site.")] = ""
    local_url: Annotated[str, Meta(pattern="^https?://", description="The site's Local API.")] = (
        "http://localhost:18000"
    )
    forward_timeout_s: Annotated[
        Seconds, Meta(description="How long an answer waits for the site before the event is spooled.")
    ] = 2.0
    forward_gzip: Annotated[
        str,
        Meta(
            pattern="^(auto|always|never)$",
            description="Batches go to the site as gzip: `always`, `never`, or `auto`, to another machine.",
        ),
    ] = "auto"
    token: Annotated[str, Meta(description="The token to present to the Local API.")] = ""
    token_file: Annotated[str, Meta(description="A file that holds it; read again when it changes.")] = ""
    ca: Annotated[str, Meta(description="CA (PEM) of the Local API; empty: those of the system.")] = ""
    client_cert: Annotated[str, Meta(description="Certificate (PEM) to present to the Local API.")] = ""
    client_key: Annotated[str, Meta(description="Its key, without a pass phrase.")] = ""
    unsent_dirs: Annotated[
        str,
        Meta(description="Where jobs leave what no sidecar took, comma-separated; empty: `unsent` in data_dir."),
    ] = ""

    @property
    def spool_path(self) -> Path:
        return Path(self.spool_dir) if self.spool_dir else self.data_path / "sidecar-spool"

    @property
    def unsent_paths(self) -> list[Path]:
        named = [Path(name.strip()) for name in self.unsent_dirs.split(",") if name.strip()]
        return named or [self.data_path / "unsent"]


class LocalSettings(SpoolSettings, frozen=True, kw_only=True):
    port: Annotated[Port, Meta(description="Port to listen on.")] = 18000
    site_id: Annotated[str, Meta(pattern=f"{SITE_ID_PATTERN}|^$", description="Only events of this site.")] = ""
    database_url: Annotated[
        str, Meta(description="libpq URL, several hosts allowed; empty: the embedded PostgreSQL.")
    ] = ""
    database_wait_s: Annotated[
        Seconds, Meta(description="How long the start waits for the database before serving from the spool.")
    ] = 10.0
    pool_max_size: Annotated[int, Meta(ge=2, le=100, description="Most connections to the database.")] = 8
    commit_max_events: Annotated[int, Meta(ge=1, le=100_000, description="Most events in one transaction.")] = 10_000
    commit_max_waiting: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Most events that wait for a transaction; past that 503.")
    ] = 50_000
    event_retention_days: Annotated[int, Meta(ge=1, le=36_500, description="Days that an event is kept.")] = 30
    job_retention_days: Annotated[int, Meta(ge=1, le=36_500, description="Days that a job is kept.")] = 400
    compress_after_days: Annotated[
        int,
        Meta(
            ge=0,
            le=36_500,
            description="Events older than this many days are compressed, where TimescaleDB's licence allows it; the live"
            " stream waits while a day is compressed. Below event_retention_days; 0: never.",
        ),
    ] = 0
    stream_max_readers: Annotated[int, Meta(ge=1, le=100_000, description="Most readers of /v1/stream.")] = 500
    stale_after_s: Annotated[Seconds, Meta(description="A running job that is silent for longer is stale.")] = 900.0

    def __post_init__(self) -> None:
        if self.compress_after_days >= self.event_retention_days:
            raise SettingsError(
                f"FABMON_COMPRESS_AFTER_DAYS: {self.compress_after_days} is not below FABMON_EVENT_RETENTION_DAYS"
                f" ({self.event_retention_days}): events would be gone before they are compressed"
            )

    @property
    def spool_path(self) -> Path:
        return Path(self.spool_dir) if self.spool_dir else self.data_path / "local-spool"


class CentralSettings(Settings, frozen=True, kw_only=True):
    port: Annotated[Port, Meta(description="Port to listen on.")] = 19000
    sites: Annotated[
        str, Meta(description="`fab1=http://site1:18000,fab2=...`, or a TOML file (docs/operating.md).")
    ] = "fab1=http://localhost:18000"
    site_deadline_s: Annotated[Seconds, Meta(description="How long a site may take to answer.")] = 3.0
    token: Annotated[str, Meta(description="The token to present to the sites.")] = ""
    token_file: Annotated[str, Meta(description="A file that holds it; read again when it changes.")] = ""
    ca: Annotated[str, Meta(description="CA (PEM) of the sites; empty: those of the system.")] = ""
    client_cert: Annotated[str, Meta(description="Certificate (PEM) to present to the sites.")] = ""
    client_key: Annotated[str, Meta(description="Its key, without a pass phrase.")] = ""


ROLES: Final[dict[str, type[Settings]]] = {
    "sidecar": SidecarSettings,
    "local": LocalSettings,
    "central": CentralSettings,
}

S = TypeVar("S", bound=Settings)


def load(kind: type[S], environment: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> S:
    """The settings of *kind*; a flag that is not None goes before the environment.

    Raises SettingsError, which names the variable or flag, for an unknown name or a value out of bounds.
    """
    refuse_unknown_names(environment)
    values, sources = gather(kind, environment, flags or {})
    for name, value in values.items():
        try:
            msgspec.convert({name: _typed(kind, name, value)}, _probe(kind, name), strict=False)
        except (msgspec.ValidationError, ValueError) as error:
            why = str(error).partition(" - at ")[0]
            shown = "" if name in SECRETS else f" (it is {str(value)[:100]!r})"
            raise SettingsError(f"{sources[name]}: {why}{shown}") from None
    typed = {name: _typed(kind, name, value) for name, value in values.items()}
    return msgspec.convert(typed, kind, strict=False)


def gather(
    kind: type[Settings], environment: Mapping[str, str], flags: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The values that were given, and for each the name by which it was."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in kind.__struct_fields__:
        if flags.get(name) is not None:
            values[name], sources[name] = flags[name], "--" + name.replace("_", "-")
        elif name.removesuffix("_file") in SECRETS - {name} and variable(name.removesuffix("_file")) in environment:
            continue  # what is said itself goes before the file
        elif variable(name) in environment:
            values[name], sources[name] = environment[variable(name)], variable(name)
        elif name in SECRETS and variable(name) + "_FILE" in environment:
            sources[name] = variable(name) + "_FILE"
            values[name] = _read_secret(sources[name], environment[sources[name]])
    return values, sources


def variable(name: str) -> str:
    return PREFIX + name.upper()


def description(kind: type[Settings], name: str) -> str:
    """The sentence that the field's declaration holds."""
    found = [meta.description for meta in _metas(get_type_hints(kind, include_extras=True)[name]) if meta.description]
    return found[-1] if found else ""


def known_names() -> set[str]:
    names = {variable(name) for kind in ROLES.values() for name in kind.__struct_fields__}
    return names | {variable(name) + "_FILE" for name in SECRETS} | OTHER_NAMES


def refuse_unknown_names(environment: Mapping[str, str]) -> None:
    """A misspelt name would be a setting that silently does nothing."""
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known_names())
    if unknown:
        raise SettingsError(f"{unknown[0]} is no setting of fabmon; `fabmon config --role ROLE` lists them")


def _read_secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: {path!r} cannot be read: {error}") from None


def _typed(kind: type[Settings], name: str, value: object) -> object:
    """A string as the field's type wants it; msgspec turns the rest by itself."""
    if isinstance(value, str) and get_type_hints(kind)[name] is bool:
        lowered = value.lower()
        if lowered not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError("Expected true or false")
        return lowered in ("true", "1", "yes")
    return value


def _probe(kind: type[Settings], name: str) -> Any:
    """A struct of the one field, so that a message is about that field alone."""
    return msgspec.defstruct(f"{kind.__name__}_{name}", [(name, get_type_hints(kind, include_extras=True)[name])])


def _metas(hint: Any) -> list[Meta]:
    return [part for part in get_args(hint)[1:] if isinstance(part, Meta)]
