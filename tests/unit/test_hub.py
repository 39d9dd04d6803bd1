"""The hub that closes."""

from fabmon.store.changes import Change, Position
from fabmon.stream.hub import Hub


async def test_a_reader_gets_what_waits_for_it_and_then_the_end() -> None:
    hub = Hub(1)
    with hub.reading() as reader:
        hub.go_live(Position(1, 0))
        await hub.attach(reader)
        hub.publish([Change(Position(2, 1), {"n": 1})])
        hub.close()
        news = await reader.news()
        assert news is not None
        assert len(news.bursts) == 1
        assert await reader.news() is None
