"""Webhooks: what is sent when a job ends, to whom, signed by what; what becomes of the deaf."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from edge_tenant import Tenant, in_storage
from receiver import Received, Receiver, Reply

from shared.outgoing import Outgoing
from shared.storage import Storage
from shared.webhooks import DISABLED_AFTER, MAX_WEBHOOKS, Webhooks

pytestmark = pytest.mark.security("API6", "API7")
# The timer that starts deliveries looks every five seconds.
TIMER_SECONDS = 5
DELIVERY_SECONDS = 60


def webhook(tenant: Tenant, receiver: Receiver, **more: Any) -> dict[str, Any]:
    answer = tenant.call("POST", "/api/webhooks", {"url": f"{receiver.url}/hook", **more})
    assert answer.status == 201, answer.body
    return answer.json


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DELIVERY_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.2)


def signed_by(secret: str, message: Received) -> bool:
    """Whether a receiver that follows the Standard Webhooks specification takes the message."""
    content = f"{message.headers['webhook-id']}.{message.headers['webhook-timestamp']}.".encode()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, content + message.body, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return expected in message.headers["webhook-signature"].split(" ")


@dataclass
class Told:
    """Receivers by what they are for, after one job that succeeded and one that failed."""

    tenant: Tenant
    succeeded: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, Any] = field(default_factory=dict)
    receivers: dict[str, Receiver] = field(default_factory=dict)
    webhooks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def jobs(self, name: str) -> list[str]:
        """The jobs of whose ends a receiver was told."""
        return sorted({json.loads(message.body)["data"]["id"] for message in self.receivers[name].received})

    def message(self, name: str) -> Received:
        """What a receiver was told of the job that succeeded."""
        received = self.receivers[name].received
        return next(m for m in received if json.loads(m.body)["data"]["id"] == self.succeeded["id"])


@pytest.fixture(scope="module")
def told(stack) -> Iterator[Told]:
    name, other = stack.new_tenant(), stack.new_tenant()
    tenant, stranger = Tenant(stack, name, stack.key_for(name)), Tenant(stack, other, stack.key_for(other))
    told = Told(tenant)
    with ExitStack() as open_receivers:
        for purpose in ("all", "failed ones", "rotated", "deaf at first", "deleted", "a stranger's"):
            told.receivers[purpose] = open_receivers.enter_context(closing(Receiver()))
        wanted = {"failed ones": {"kinds": ["ingestion"], "states": ["failed"]}}
        for purpose, receiver in told.receivers.items():
            whose = stranger if purpose == "a stranger's" else tenant
            told.webhooks[purpose] = webhook(whose, receiver, **wanted.get(purpose, {}))
        deaf = told.receivers["deaf at first"]
        deaf.reply = lambda _: Reply(503 if len(deaf.received) <= 2 else 204)
        rotated = tenant.call("POST", f"/api/webhooks/{told.webhooks['rotated']['id']}/rotate").json
        told.webhooks["rotated"]["next secret"] = rotated["secret"]
        assert tenant.call("DELETE", f"/api/webhooks/{told.webhooks['deleted']['id']}").status == 204
        collection = tenant.collection()
        told.succeeded = tenant.put(collection, "secret-plan.txt", "The plan is secret.")
        told.failed = tenant.put(collection, "empty.txt", "   ")
        until(lambda: len(told.jobs("all")) == 2 and len(deaf.received) >= 4 and told.jobs("rotated"))
        time.sleep(TIMER_SECONDS + 1)  # for what should not come
        yield told


def test_a_receiver_is_told_of_the_end_of_a_job_in_a_signed_message(told: Told) -> None:
    made, message = told.webhooks["all"], told.message("all")
    assert signed_by(made["secret"], message)
    assert not signed_by(made["secret"], Received("POST", "/", message.headers, message.body + b" "))
    assert abs(int(message.headers["webhook-timestamp"]) - time.time()) < 300
    document = json.loads(message.body)
    assert document["type"] == "job.succeeded"
    assert document["data"]["counts"] == {"indexed": 1}
    assert document["data"]["url"] == f"{told.tenant.stack.url}/api/jobs/{told.succeeded['id']}"


def test_a_message_holds_no_names_of_documents_and_no_content(told: Told) -> None:
    for receiver in told.receivers.values():
        assert not any(b"plan" in message.body for message in receiver.received)


def test_a_webhook_is_shown_without_its_secret(told: Told) -> None:
    found = told.tenant.call("GET", f"/api/webhooks/{told.webhooks['all']['id']}").json
    assert found["delivered"]
    assert "secret" not in found
    assert b"whsec_" not in told.tenant.call("GET", "/api/webhooks").body


def test_only_the_kinds_and_endings_that_were_asked_for_are_told(told: Told) -> None:
    assert told.jobs("all") == sorted([told.succeeded["id"], told.failed["id"]])
    assert told.jobs("failed ones") == [told.failed["id"]]


def test_a_message_that_is_not_taken_comes_again_under_the_same_id(told: Told) -> None:
    tries: dict[str, set[bytes]] = {}
    received = told.receivers["deaf at first"].received
    for message in received:
        tries.setdefault(message.headers["webhook-id"], set()).add(message.body)
    assert len(tries) == 2 < len(received)
    assert all(len(bodies) == 1 for bodies in tries.values())


def test_after_a_rotation_both_secrets_sign(told: Told) -> None:
    made, message = told.webhooks["rotated"], told.message("rotated")
    assert made["secret"] != made["next secret"]
    assert signed_by(made["secret"], message)
    assert signed_by(made["next secret"], message)


def test_a_deleted_webhook_is_told_nothing_and_is_not_found(told: Told) -> None:
    assert not told.receivers["deleted"].received
    assert told.tenant.call("GET", f"/api/webhooks/{told.webhooks['deleted']['id']}").status == 404


def test_another_tenants_webhook_is_told_nothing_and_is_not_found(told: Told) -> None:
    assert not told.receivers["a stranger's"].received
    strange = told.webhooks["a stranger's"]["id"]
    path = f"/api/webhooks/{strange}"
    for method, verb in (("GET", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/enable")):
        assert told.tenant.call(method, path + verb).status == 404


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with closing(Receiver()) as receiver:
        yield receiver


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "http://127.0.0.1/",
        "http://[::ffff:10.0.0.1]/",
        "http://2130706433/",
        "file:///etc/passwd",
        "https://user:word@example.org/",
        "ftp://example.org/",
        "no address",
    ],
)
def test_a_forbidden_address_is_refused(shared_tenant: Tenant, url: str) -> None:
    answer = shared_tenant.call("POST", "/api/webhooks", {"url": url})
    assert (answer.status, answer.json["code"]) == (400, "url_refused")


def test_so_many_webhooks_and_no_more(tenant: Tenant, receiver: Receiver) -> None:
    for _ in range(MAX_WEBHOOKS):
        webhook(tenant, receiver)
    assert tenant.call("POST", "/api/webhooks", {"url": receiver.url}).status == 409


def test_a_webhook_is_disabled_after_repeated_failure_and_can_be_enabled(
    tenant: Tenant, receiver: Receiver
) -> None:
    made = webhook(tenant, receiver)

    async def give_up(storage: Storage) -> None:
        webhooks = Webhooks(storage, Outgoing(), None, "")
        for _ in range(DISABLED_AFTER):
            assert not (await webhooks.get(tenant.name, made["id"])).disabled
            await webhooks.give_up(await webhooks.get(tenant.name, made["id"]))

    in_storage(tenant.stack.storage, give_up)
    found = tenant.call("GET", f"/api/webhooks/{made['id']}").json
    assert (found["state"], found["failures"]) == ("disabled", DISABLED_AFTER)
    tenant.put(tenant.collection(), "a.txt", "Something.")
    time.sleep(TIMER_SECONDS + 1)  # the timer's next look
    assert not receiver.received
    assert tenant.call("POST", f"/api/webhooks/{made['id']}/enable").json["state"] == "enabled"
    tenant.put(tenant.collection(), "b.txt", "Something else.")
    until(lambda: receiver.received)
