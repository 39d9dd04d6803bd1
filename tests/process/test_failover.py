"""A database of two servers: what the primary commits its standby has too; one is killed, the other takes over."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.fixtures.reporting import drained, more, reporting, stored
from tests.fixtures.roles import StartRole, eventually
from tests.fixtures.servers import OwnServer
from tests.process.test_start import fabmon

MakeServer = Callable[..., OwnServer]


@pytest.fixture
def primary(own_server: MakeServer) -> OwnServer:
    server = own_server("primary").make().start()
    assert fabmon("migrate", FABMON_DATABASE_URL=server.url).returncode == 0
    return server


@pytest.fixture
def standby(own_server: MakeServer, primary: OwnServer) -> OwnServer:
    server = own_server("standby", cluster_name="standby").copy_of(primary).start()
    primary.do("alter system set synchronous_standby_names = 'standby'")
    primary.do("select pg_reload_conf()")
    eventually(lambda: primary.do("select sync_state from pg_stat_replication") == "sync")
    return server


def test_a_failover_loses_no_acknowledged_event(make_role: StartRole, primary: OwnServer, standby: OwnServer) -> None:
    url = f"postgresql://postgres@{primary.address},{standby.address}/postgres?target_session_attrs=read-write"
    local = make_role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1").start()
    with reporting(local) as accepted:
        more(accepted, 12)
        primary.kill()
        more(accepted, 50)
        assert standby.do("select pg_promote()") is True
        eventually(lambda: local.get("/readyz").status == 200, 30, lambda: local.log[-2000:])
        more(accepted, 50)
    drained(local)
    assert "upstream.lost" in local.log
    assert stored(local) >= set(accepted)


def test_a_repeat_is_not_answered_before_the_standby_has_the_first(primary: OwnServer, standby: OwnServer) -> None:
    take = f"select take_keys(array['{uuid4()}']::uuid[], array['fab1'])"
    assert primary.do(take) == []
    standby.kill()
    with ThreadPoolExecutor(1) as threads:
        repeat = threads.submit(primary.do, take)
        with pytest.raises(TimeoutError):
            repeat.result(1.0)
        standby.start()
        assert repeat.result(60) == [0]
