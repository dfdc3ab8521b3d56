"""The SDK's own client over HTTP, and the management API beside it."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import azure.durable_functions as df
import pytest
from azure.durable_functions import DurableOrchestrationClient, OrchestrationRuntimeStatus
from durable_host import KEY, Host

STATUS = OrchestrationRuntimeStatus
HOOK = "/runtime/webhooks/durabletask"


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


# -- the SDK's client ----------------------------------------------------------------------------


async def test_the_client_starts_a_fan_out_and_reads_its_result(
    host: Host, client: DurableOrchestrationClient
) -> None:
    started = await client.start_new("fan_out", None, 50)
    await host.finished(started)
    status = await client.get_status(started, show_history=True, show_input=True)
    assert (status.runtime_status, status.output) == (STATUS.Completed, 2450)
    assert status.input_ == "50"


async def test_the_client_raises_events(host: Host, client: DurableOrchestrationClient) -> None:
    started = await client.start_new("event_or_timeout", "mine", 60)
    await client.raise_event(started, "go", {"x": 1})
    status = json.loads((await host.finished(started)).output)
    assert status == {"event": '{"x": 1}'}, "the SDK encodes an event's data twice, here as in Azure"


async def test_the_client_learns_that_an_orchestrator_does_not_exist(
    client: DurableOrchestrationClient,
) -> None:
    with pytest.raises(Exception, match="'nowhere' doesn't exist"):
        await client.start_new("nowhere")


async def test_the_client_learns_that_an_id_is_running(client: DurableOrchestrationClient) -> None:
    await client.start_new("two_names", "one")
    with pytest.raises(Exception, match="already exists"):
        await client.start_new("two_names", "one")


async def test_the_client_suspends_resumes_terminates_and_purges(
    host: Host, client: DurableOrchestrationClient
) -> None:
    await client.start_new("two_names", "one")
    await client.suspend("one", "hold it & wait")
    assert (await client.get_status("one")).runtime_status == STATUS.Suspended
    await client.resume("one", "go on")
    await client.terminate("one", "enough / done")
    status = await client.get_status("one")
    assert (status.runtime_status, status.output) == (STATUS.Terminated, "enough / done")
    assert (await client.purge_instance_history("one")).instances_deleted == 1
    assert not await client.get_status("one")


async def test_the_client_rewinds_and_restarts(host: Host, client: DurableOrchestrationClient) -> None:
    await client.start_new("flaky_child", "one", {"key": "r", "succeeds_at": 2})
    await host.finished("one")
    await client.rewind("one", "again")
    await host.finished("one")
    assert (await client.get_status("one")).output == "r after 2"
    with pytest.raises(Exception, match="only supported on failed"):
        await client.rewind("one", "again")
    restarted = await client.restart("one")
    await host.finished(restarted["id"])
    assert (await client.get_status(restarted["id"])).output == "r after 3"


async def test_the_client_queries_and_purges_by_filter(
    host: Host, client: DurableOrchestrationClient
) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    for name, instance_id in (("fan_out", "a-1"), ("fan_out", "a-2"), ("failing", "b-1")):
        await client.start_new(name, instance_id, 1)
        await host.finished(instance_id)
    assert [s.instance_id for s in await client.get_status_all()] == ["a-1", "a-2", "b-1"]
    assert [s.instance_id for s in await client.get_status_by(before, None, [STATUS.Failed])] == ["b-1"]
    assert [s.instance_id for s in await client.get_status_by(instance_id_prefix="a-")] == ["a-1", "a-2"]
    purged = await client.purge_instance_history_by(before, None, [STATUS.Completed])
    assert purged.instances_deleted == 2
    assert (await client.purge_instance_history_by(before, None, [STATUS.Completed])).instances_deleted == 0


async def test_the_client_signals_and_reads_entities(host: Host, client: DurableOrchestrationClient) -> None:
    entity = df.EntityId("Counter", "via-client")
    assert not (await client.read_entity_state(entity)).entity_exists
    await client.signal_entity(entity, "add", 5)

    async def there() -> bool:
        return (await client.read_entity_state(entity)).entity_state == 5

    await host.until(there)


# -- the management API --------------------------------------------------------------------------


async def test_the_management_api_asks_for_its_key(base_url: str, web: aiohttp.ClientSession) -> None:
    for code, expected in (("", 401), ("?code=wrong", 401), (f"?code={KEY}", 200)):
        assert (await web.get(f"{base_url}{HOOK}/instances{code}")).status == expected
    headers = {"x-functions-key": KEY}
    assert (await web.get(f"{base_url}{HOOK}/instances", headers=headers)).status == 200


async def test_the_clients_path_cannot_be_guessed(base_url: str, web: aiohttp.ClientSession) -> None:
    assert (await web.get(f"{base_url}/runtime/durabletask/rpc/guess/instances")).status == 404


async def test_status_codes_follow_the_instance(
    host: Host, base_url: str, web: aiohttp.ClientSession
) -> None:
    def url(path: str) -> str:
        return f"{base_url}{HOOK}/{path}{'&' if '?' in path else '?'}code={KEY}"

    started = await web.post(url("orchestrators/two_names/one"))
    assert started.status == 202
    links = await started.json()
    assert started.headers["Location"] == links["statusQueryGetUri"]
    running = await web.get(links["statusQueryGetUri"])
    assert (running.status, running.headers["Retry-After"]) == (202, "5")
    assert (await web.post(url("orchestrators/two_names/one"))).status == 409
    assert (await web.post(url("orchestrators/nowhere"))).status == 400
    assert (await web.post(url("orchestrators/two_names"), data="{")).status == 400
    assert (await web.get(url("instances/nobody"))).status == 404
    assert (await web.post(url("instances/nobody/terminate"))).status == 404
    assert (await web.post(url("instances/one/raiseEvent/a"), data="1")).status == 400
    for name in ("a", "b"):
        raised = links["sendEventPostUri"].replace("{eventName}", name)
        assert (await web.post(raised, json={"n": name})).status == 202
    await host.finished("one")
    done = await web.get(links["statusQueryGetUri"])
    assert done.status == 200
    assert (await done.json())["output"] == [{"n": "a"}, {"n": "b"}]
    for operation in ("terminate", "suspend", "resume", "rewind", "raiseEvent/a"):
        assert (await web.post(url(f"instances/one/{operation}"), json=1)).status == 410
    assert (await web.delete(url("instances/one"))).status == 200
    assert (await web.delete(url("instances/one"))).status == 404
    assert (await web.delete(url("instances"))).status == 400


async def test_a_failure_is_a_500_for_those_who_ask_for_it(
    host: Host, base_url: str, web: aiohttp.ClientSession
) -> None:
    await host.run("failing", None, "one")
    url = f"{base_url}{HOOK}/instances/one?code={KEY}"
    assert (await web.get(url)).status == 200
    assert (await web.get(url + "&returnInternalServerErrorOnFailure=true")).status == 500


async def test_history_is_shown_on_request_and_results_on_a_further_one(
    host: Host, base_url: str, web: aiohttp.ClientSession
) -> None:
    await host.run("fan_out", 1, "one")
    url = f"{base_url}{HOOK}/instances/one?code={KEY}"
    assert "historyEvents" not in await (await web.get(url)).json()
    shown = (await (await web.get(url + "&showHistory=true")).json())["historyEvents"]
    assert "Result" not in shown[1]
    full = (await (await web.get(url + "&showHistory=true&showHistoryOutput=true")).json())["historyEvents"]
    assert (full[1]["EventType"], full[1]["Result"]) == ("TaskCompleted", 0)
    assert (await (await web.get(url + "&showInput=false")).json())["input"] is None


async def test_a_listing_is_paged_with_a_continuation_token(
    host: Host, base_url: str, web: aiohttp.ClientSession
) -> None:
    for n in range(5):
        await host.run("no_yield", None, f"i{n}")
    seen, token = [], None
    for _ in range(3):
        headers = {"x-ms-continuation-token": token} if token else {}
        page = await web.get(f"{base_url}{HOOK}/instances?code={KEY}&top=2", headers=headers)
        seen.append([instance["instanceId"] for instance in await page.json()])
        token = page.headers.get("x-ms-continuation-token")
    assert seen == [["i0", "i1"], ["i2", "i3"], ["i4"]]
    assert token is None
    bad = {"x-ms-continuation-token": "%%%"}
    assert (await web.get(f"{base_url}{HOOK}/instances?code={KEY}", headers=bad)).status == 400


async def test_create_and_wait_answers_with_the_output(base_url: str, web: aiohttp.ClientSession) -> None:
    wait = f"?timeout=10&pollingInterval=1&code={KEY}"
    done = await web.post(f"{base_url}{HOOK}/orchestrators/fan_out{wait}", json=3)
    assert (done.status, await done.json()) == (200, 6)
    wait = f"?timeout=0.05&pollingInterval=0.01&code={KEY}"
    assert (await web.post(f"{base_url}{HOOK}/orchestrators/two_names{wait}")).status == 202


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2], 5, "text", None])
async def test_any_json_may_be_an_input_of_the_management_api(
    host: Host, base_url: str, web: aiohttp.ClientSession, value: object
) -> None:
    url = f"{base_url}{HOOK}/orchestrators/echo/one?code={KEY}"
    assert (await web.post(url, json=value)).status == 202
    assert json.loads((await host.finished("one")).output)["input"] == value


async def test_entities_are_listed_signalled_and_deleted(
    host: Host, base_url: str, web: aiohttp.ClientSession
) -> None:
    url = f"{base_url}{HOOK}/entities/counter"
    assert (await web.get(f"{url}/k?code={KEY}")).status == 404
    assert (await web.post(f"{url}/k?op=add&code={KEY}", json=5)).status == 202
    assert (await web.post(f"{base_url}{HOOK}/entities/nothing/k?code={KEY}", json=5)).status == 400

    async def there() -> bool:
        return (await web.get(f"{url}/k?code={KEY}")).status == 200

    await host.until(there)
    listed = await (await web.get(f"{url}?fetchState=true&code={KEY}")).json()
    assert [(e["entityId"], e["state"]) for e in listed] == [({"name": "counter", "key": "k"}, 5)]
    assert (await web.delete(f"{url}/k?code={KEY}")).status == 202

    async def gone() -> bool:
        return not await there()

    await host.until(gone)
