"""From a question to SQL: the one place that does it. Values are always parameters, names come from the tables below."""

from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from psycopg import sql

from fabmon.wire.event import LOST

# What a row shows, in this order, per entity type: the name in the answer and the SQL behind it.
_SHARED: Final = {
    "app_id": "app_id",
    "app_name": "app_name",
    "app_version": "app_version",
    "site_id": "site_id",
    "job_key": "job_key",
    "status": "status",
    # Its last event says so, and it has not ended: any later event takes it back.
    "lost": f"(status = 'running' and coalesce(metadata_pos ->> '{LOST}' = last_pos, false))",
    "started_at": "started_at",
    "ended_at": "ended_at",
    "duration_s": "duration_s",
    "cpu_user_s": "cpu_user_s",
    "cpu_system_s": "cpu_system_s",
    "mem_max_mb": "mem_max_mb",
    "progress": "progress",
    "metadata": "metadata",
    "metrics": "metrics - '{cpu_user_s,cpu_system_s,progress}'::text[]",
    "event_count": "event_count",
    "error_count": "error_count",
    "last_event_at": "last_event_at",
    "inserted_at": "inserted_at",
    "updated_at": "updated_at",
}
SHOWN: Final[dict[str, dict[str, str]]] = {
    "job": {"job_id": "id", **_SHARED},
    "subjob": {"subjob_id": "id", "job_id": "parent_id", "sub_key": "sub_key", **_SHARED},
}

# What can be sorted by; the type is how a cursor's value is read back. PostgreSQL's own order of nulls holds: a null is
# greater than everything, as "not ended yet" should be.
SORTABLE: Final[dict[str, str]] = {
    "started_at": "timestamptz",
    "inserted_at": "timestamptz",
    "updated_at": "timestamptz",
    "last_event_at": "timestamptz",
    "ended_at": "timestamptz",
    "duration_s": "float8",
    "cpu_user_s": "float8",
    "cpu_system_s": "float8",
    "mem_max_mb": "float8",
    "progress": "float8",
    "event_count": "int8",
    "error_count": "int8",
    "status": "text",
    "app_name": "text",
    "job_key": "text",
}
NEVER_NULL: Final = frozenset(
    {"started_at", "inserted_at", "updated_at", "last_event_at", "event_count", "error_count", "status", "app_name"}
)


DEFAULT_LIMIT: Final = 1000


# "Contains" finds no index; the few names that contain it are looked up first (jobs.py), and these do.
APP_NAME_LIKE: Final = "app_name ilike %(pattern)s"


class Condition(msgspec.Struct, frozen=True):
    """SQL with one or more named parameters, and their values."""

    text: str
    values: dict[str, Any]
    negated: bool = False
    # Few rows may meet it, and lie far from where the order begins, which PostgreSQL cannot know (see `narrow_sql`).
    narrows: bool = False


def is_one_of(column: str, values: list[str]) -> Condition:
    """One value is asked for as itself: only so does an index give its rows in their order."""
    if len(values) == 1:
        return Condition(f"{column} = %(value)s", {"value": values[0]})
    return Condition(f"{column} = any(%(values)s::text[])", {"values": values})


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs (or subjobs), in which order, from where on."""

    entity_type: Literal["job", "subjob"]
    conditions: tuple[Condition, ...] = ()
    order: str = "started_at"
    descending: bool = True
    after: tuple[Any, UUID] | None = None
    limit: int | None = None


def page_sql(selection: Selection, *, filter_first: bool = False) -> tuple[sql.Composed, dict[str, Any]]:
    """One page and one row more, which tells whether there is a next one; the last two columns are for the cursor.

    *filter_first*: find all rows and sort them (`offset 0` keeps PostgreSQL from reading in the order until it has enough).
    """
    where, values = _where(selection)
    source = sql.SQL(
        "(select * from {table} where {where} offset 0) as found" if filter_first else "{table} where {where}"
    )
    text = sql.SQL(
        "select {columns}, {order}::text as cursor_value, id as cursor_id from {source} {sorted} limit %(limit)s"
    ).format(
        columns=_columns(selection.entity_type),
        order=sql.Identifier(selection.order),
        source=source.format(table=sql.Identifier(selection.entity_type), where=where),
        sorted=_sorted(selection),
    )
    return text, {**values, "limit": (selection.limit or DEFAULT_LIMIT) + 1}


def narrow_sql(selection: Selection, most: int) -> tuple[sql.Composed, dict[str, Any]] | None:
    """How many rows meet the conditions that may leave few, counted up to *most* and one by their index alone.

    None where no condition does. PostgreSQL takes what is asked for to be spread evenly over the order, and reads in the
    order until it has a page; a day of `ended_at`, or lots that begin alike, lie together, and it reads all others first.
    """
    narrowing = tuple(condition for condition in selection.conditions if condition.narrows and not condition.negated)
    if not narrowing:
        return None
    return count_sql(msgspec.structs.replace(selection, conditions=narrowing), most)


def count_sql(selection: Selection, most: int) -> tuple[sql.Composed, dict[str, Any]]:
    """How many rows there are, whatever the page; counting stops at *most* and one."""
    where, values = _where(msgspec.structs.replace(selection, after=None))
    text = sql.SQL("select count(*) as total from (select from {table} where {where} limit %(most)s) as found").format(
        table=sql.Identifier(selection.entity_type), where=where
    )
    return text, {**values, "most": most + 1}


def export_sql(selection: Selection, form: Literal["csv", "ndjson"]) -> tuple[sql.Composed, dict[str, str]]:
    """A COPY of the selection, without a limit when it has none, and the settings that it reads its values from.

    COPY takes no parameters, and values are never pasted: they are set for the transaction (set_config, with real
    parameters) and read back here with their type.
    """
    where, values = _where(selection)
    spelled = {name: _spelled(value) for name, value in values.items()}
    settings = {name: sql.SQL("current_setting({})::{}").format(f"fabmon.{name}", _raw(kind))
                for name, (_, kind) in spelled.items()}  # fmt: skip
    query = sql.SQL("select {columns} from {table} where {where} {sorted}").format(
        columns=_columns(selection.entity_type),
        table=sql.Identifier(selection.entity_type),
        where=_filled(where, settings),
        sorted=_sorted(selection),
    )
    if selection.limit is not None:
        query = sql.SQL("{} limit {}").format(query, sql.Literal(int(selection.limit)))
    if form == "csv":
        text = sql.SQL("copy ({}) to stdout with (format csv, header true)").format(query)
    else:
        # Two characters that JSON never holds unescaped: so nothing is quoted or doubled on the way out.
        text = sql.SQL(
            "copy (select row_to_json(item) from ({}) as item) to stdout"
            " with (format csv, quote E'\\x01', delimiter E'\\x02')"
        ).format(query)
    return text, {f"fabmon.{name}": value for name, (value, _) in spelled.items()}


def _columns(entity_type: str) -> sql.Composable:
    shown = SHOWN[entity_type]
    return sql.SQL(", ").join(
        sql.SQL("{} as {}").format(_raw(text), sql.Identifier(name)) for name, text in shown.items()
    )


def _sorted(selection: Selection) -> sql.Composable:
    direction = sql.SQL("desc" if selection.descending else "asc")
    return sql.SQL("order by {} {}, id {}").format(_ordered_by(selection), direction, direction)


def _ordered_by(selection: Selection) -> sql.Composable:
    """The column; text by its bytes, so that every site and central agree on the order whatever the database's locale."""
    column = sql.Identifier(selection.order)
    return sql.SQL('{} collate "C"').format(column) if SORTABLE[selection.order] == "text" else column


def _spelled(value: Any) -> tuple[str, str]:
    """A value as text, and the PostgreSQL type that reads it back."""
    if isinstance(value, list):
        return "{" + ",".join(value) + "}", "text[]"  # only statuses, which are checked names
    if isinstance(value, datetime):
        return value.isoformat(), "timestamptz"
    if isinstance(value, UUID):
        return str(value), "uuid"
    if isinstance(value, int | float):
        return repr(value), "float8"
    return str(value), "text"


def _filled(where: sql.Composable, settings: dict[str, sql.Composed]) -> sql.Composable:
    """*where* with its placeholders replaced by the expressions that read the settings."""
    text = where.as_string(None)
    for name, expression in settings.items():
        text = text.replace(f"%({name})s", expression.as_string(None))
    return _raw(text.replace("%%", "%"))


def _where(selection: Selection) -> tuple[sql.Composable, dict[str, Any]]:
    parts: list[sql.Composable] = [sql.SQL("true")]
    values: dict[str, Any] = {}
    for number, condition in enumerate(selection.conditions):
        names = {name: f"{name}_{number}" for name in condition.values}
        text: sql.Composable = _raw(condition.text % {name: f"%({new})s" for name, new in names.items()})
        parts.append(sql.SQL("({}) is not true").format(text) if condition.negated else sql.SQL("({})").format(text))
        values |= {names[name]: value for name, value in condition.values.items()}
    if selection.after is not None:
        parts.append(_behind(selection))
        values |= {"after_value": selection.after[0], "after_id": selection.after[1]}
    return sql.SQL(" and ").join(parts), values


def _behind(selection: Selection) -> sql.Composable:
    """The rows behind the cursor, nulls being greater than everything."""
    assert selection.after is not None  # noqa: S101 - the caller asked
    column = _ordered_by(selection)
    sign = sql.SQL("<" if selection.descending else ">")
    value = _raw(f"%(after_value)s::{SORTABLE[selection.order]}")
    parts = {"column": column, "sign": sign, "value": value}
    if selection.order in NEVER_NULL:
        return sql.SQL("({column}, id) {sign} ({value}, %(after_id)s)").format(**parts)
    if selection.after[0] is None:
        rest = sql.SQL("({column} is null and id {sign} %(after_id)s)").format(**parts)
        return sql.SQL("({} or {} is not null)").format(rest, column) if selection.descending else rest
    rest = sql.SQL("({column}, id) {sign} ({value}, %(after_id)s)").format(**parts)
    return rest if selection.descending else sql.SQL("({} or {} is null)").format(rest, column)


def _raw(text: Any) -> sql.SQL:
    """Text from the tables above, never from a request."""
    return sql.SQL(text)
