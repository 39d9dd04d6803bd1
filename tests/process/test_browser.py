"""The stream in a real browser: what its EventSource gets, and where it goes on after a restart."""

import pytest

from tests.fixtures.browser import Browser, open_browser
from tests.fixtures.roles import Service, StartRole, eventually
from tests.make import event_dict

OPEN = """
window.got = []; window.failed = false;
window.source = new EventSource(arguments[0]);
source.onmessage = event => got.push([event.lastEventId, JSON.parse(event.data).idempotency_key]);
source.onerror = () => { failed = source.readyState === EventSource.CLOSED; };
"""
DOWN = "window.down = []; source.addEventListener('site_down', event => down.push(event.data))"


def got(browser: Browser, count: int) -> list[str]:
    eventually(lambda: browser.run("return got.length") >= count)
    return [key for _, key in browser.run("return got")]


@pytest.mark.one_lane
def test_an_event_source_gets_every_event_once_also_over_a_restart(local: Service, make_role: StartRole) -> None:
    with open_browser() as browser:
        browser.open(f"{local.url}/livez")  # any page of the same origin
        browser.run(OPEN, "/v1/stream")
        eventually(lambda: browser.run("return source.readyState") == 1)
        sent = [event_dict() for _ in range(5)]
        keys = [each["idempotency_key"] for each in sent]
        local.send(sent[:3])
        assert got(browser, 3) == keys[:3]
        local.stop()
        local.start()
        local.send(sent[3:])  # before the browser is back: it resumes by its Last-Event-ID
        assert got(browser, 5) == keys

        first = browser.run("const id = got[0][0]; source.close(); return id")
        browser.run(OPEN, f"/v1/stream?last_event_id={first}")
        assert got(browser, 4) == keys[1:]

        # A page of another origin may not read.
        other = make_role("central", FABMON_SITES=f"fab1={local.url}").start("/livez")
        browser.open(f"{other.url}/livez")
        browser.run(OPEN, f"{local.url}/v1/stream")
        eventually(lambda: browser.run("return failed"))
        # Central's stream names the site that goes.
        browser.run(
            OPEN + "window.down = []; source.addEventListener('site_down', e => down.push(e.data))", "/v1/stream?site=*"
        )
        local.send([event_dict()])
        eventually(lambda: browser.run("return source.readyState") == 1)
        local.stop()
        eventually(lambda: "fab1" in "".join(browser.run("return down")))
