"""`fabmon migrate`: bring FABMON_DATABASE_URL up to date."""

import asyncio
import os

from fabmon.errors import SettingsError
from fabmon.settings import LocalSettings, load
from fabmon.store.migrate import migrate as run_migrations
from fabmon.store.migrate import newest


def migrate() -> None:
    """Bring the database of FABMON_DATABASE_URL up to date; safe to run twice, or from two places at once."""
    settings = load(LocalSettings, os.environ)
    if not settings.database_url:
        raise SettingsError(
            "FABMON_DATABASE_URL is not set: the embedded PostgreSQL is brought up to date by `fabmon serve` itself"
        )
    for name in asyncio.run(run_migrations(settings.database_url)):
        print(f"ran {name}")
    print(f"schema {newest()} is up to date")
