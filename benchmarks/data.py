"""Seeded events that look like a fab's: four events a job, unique keys, the same bytes for the same seed."""

import random
import uuid
from datetime import UTC, datetime, timedelta

from fabmon.wire.codec import encode
from fabmon.wire.event import App, Entity, Event, Happening, Kind

_APPS = [
    App(uuid.uuid5(uuid.NAMESPACE_URL, f"benchmark:{name}"), name, version)
    for name, version in (("recipe-runner", "4.2.1"), ("metrology-import", "2.0.9"), ("mes-bridge", "1.13.0"))
]
_KINDS: tuple[Kind, ...] = ("started", "progress", "metric", "finished")
_BEGIN = datetime(2026, 10, 19, 6, 0, tzinfo=UTC)


def events(count: int, seed: int) -> list[Event]:
    """*count* events of count/4 jobs; another *seed* gives other ids and keys."""
    draw = random.Random(seed)
    found: list[Event] = []
    for job in range(count // 4):
        entity = Entity("job", _uuid(draw), None, f"LOT-{draw.randrange(10_000):04d}.{draw.randrange(25):02d}")
        app = draw.choice(_APPS)
        begin = _BEGIN + timedelta(seconds=0.5 * job + draw.random())
        seconds = draw.uniform(5, 300)
        for place, kind in enumerate(_KINDS):
            metrics, metadata = _said(kind, draw, seconds)
            at = begin + timedelta(seconds=seconds * place / 3)
            found.append(Event(_uuid(draw), "fab1", app, entity, Happening(kind, at, None, metrics, metadata)))
    return found


def batches(count: int, size: int, seed: int) -> list[bytes]:
    """The bodies of *count* requests with *size* events each."""
    made = events(count * size, seed)
    return [encode(made[start : start + size]) for start in range(0, count * size, size)]


def _said(kind: Kind, draw: random.Random, seconds: float) -> tuple[dict[str, float], dict[str, str]]:
    if kind == "started":
        return {}, {"tool": f"ETCH-{draw.randrange(30):02d}", "recipe": f"POLY-{draw.randrange(90):02d}"}
    if kind == "progress":
        return {"progress": round(draw.random(), 3)}, {}
    if kind == "metric":
        return {"chamber_pressure_mtorr": round(draw.uniform(4, 90), 3)}, {}
    return {
        "duration_s": round(seconds, 3),
        "cpu_user_s": round(seconds * draw.random(), 3),
        "cpu_system_s": round(seconds * draw.random() / 10, 3),
        "mem_max_mb": round(draw.uniform(80, 3000), 1),
    }, {}


def _uuid(draw: random.Random) -> uuid.UUID:
    return uuid.UUID(int=draw.getrandbits(128), version=4)
