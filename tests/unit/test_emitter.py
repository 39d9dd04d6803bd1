"""The emitter's promises to threads and to neighbours; over processes and sidecars: process/test_sdk_faults.py."""

import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from fabmon.clock import now
from fabmon.sdk.address import read_address
from fabmon.sdk.emitter import Emitter
from fabmon.sdk.events import Draft
from fabmon.wire.event import Entity, Happening
from fabmon.wire.ids import app_of
from tests.fixtures.roles import free_port


def emitter(data_dir: Path) -> Emitter:
    return Emitter(read_address(f"http://127.0.0.1:{free_port()}"), "1", {"FABMON_DATA_DIR": str(data_dir)})


def draft(key: Any) -> Draft:
    app = app_of("x")
    return Draft("fab1", app, Entity("job", app.app_id, business_key=key), Happening("progress", now()))


def test_an_event_that_has_no_json_costs_no_other(tmp_path: Path) -> None:
    ours = emitter(tmp_path)
    for key in ("LOT-1", object(), "LOT-2"):
        ours.send(draft(key))
    trouble = ours.close(None, 5.0)
    (kept,) = (tmp_path / "unsent").iterdir()
    assert [b"LOT-1" in line or b"LOT-2" in line for line in kept.read_bytes().splitlines()] == [True, True]
    assert trouble is not None
    assert "TypeError" in trouble


def test_flush_waits_for_what_is_being_taken(tmp_path: Path) -> None:
    class Slow(deque[Any]):
        def popleft(self) -> Any:
            first = super().popleft()
            begun.set()
            time.sleep(0.05)  # another thread runs just here
            return first

    begun = threading.Event()
    ours = emitter(tmp_path)
    ours._pending = Slow([b"{}"])
    taking = threading.Thread(target=ours._take)
    taking.start()
    begun.wait()
    assert not ours.flush(0.0)
    taking.join()
