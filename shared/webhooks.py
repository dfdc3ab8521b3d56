"""Webhooks: signed messages to a tenant's own servers when its jobs end.

Messages follow the Standard Webhooks specification (standardwebhooks.com): the headers ``webhook-id``,
``webhook-timestamp`` and ``webhook-signature``, which is HMAC-SHA256 over ``id.timestamp.body``. A message
has the same id at every try, so that a receiver can tell a repetition.

No secret is stored: a webhook's secret is derived from the app's signing key, its id and the number of its
secret. Before a job ends, its end is announced in a partition of its own; a timer starts the deliveries of
announced ends and then forgets them, so that a killed process loses no message.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shared.errors import Conflict, GroundworkError, NotFound
from shared.jobs import Ticket, derived_id, iso
from shared.storage import Changed

if TYPE_CHECKING:
    from shared.jobs import Job
    from shared.outgoing import Outgoing
    from shared.storage import Row, Storage

TABLE = "webhooks"
ENDED = "_ended"
MAX_WEBHOOKS = 20
WRITE_TRIES = 8
# After a rotation the former secret signs beside the new one for this long.
OVERLAP_SECONDS = 24 * 3600
# Messages given up in a row, each tried for about a day, after which a webhook is disabled.
DISABLED_AFTER = 3
# A process that has just seen that a tenant has no webhook notices a new one after this long.
CACHE_SECONDS = 15.0
CACHE_TENANTS = 10_000


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a tenant's messages go. Empty ``kinds`` and ``states`` stand for all; times in UTC seconds.

    ``failures`` counts messages given up since the last that was taken.
    """

    tenant: str
    id: str
    url: str
    kinds: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    created: float = 0.0
    created_by: str = ""
    secret: int = 1
    rotated: float = 0.0
    failures: int = 0
    disabled: str = ""
    delivered: float | None = None
    etag: str = ""

    def wants(self, job: Job) -> bool:
        wanted = (not self.kinds or job.kind in self.kinds) and (not self.states or job.state in self.states)
        return wanted and not self.disabled

    def to_row(self) -> Row:
        row: Row = {
            "PartitionKey": self.tenant,
            "RowKey": self.id,
            "url": self.url,
            "kinds": json.dumps(self.kinds),
            "states": json.dumps(self.states),
            "created": self.created,
            "created_by": self.created_by,
            "secret": self.secret,
            "rotated": self.rotated,
            "failures": self.failures,
            "disabled": self.disabled,
        }
        return row if self.delivered is None else {**row, "delivered": self.delivered}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Webhook:
        return cls(
            tenant=row["PartitionKey"],
            id=row["RowKey"],
            url=row["url"],
            kinds=tuple(json.loads(row["kinds"])),
            states=tuple(json.loads(row["states"])),
            created=row["created"],
            created_by=row["created_by"],
            secret=row["secret"],
            rotated=row["rotated"],
            failures=row["failures"],
            disabled=row["disabled"],
            delivered=row.get("delivered"),
            etag=row.get("etag", ""),
        )

    def to_document(self) -> dict[str, Any]:
        """The webhook as the API shows it, without its secret."""
        return {
            "id": self.id,
            "url": self.url,
            "kinds": list(self.kinds),
            "states": list(self.states),
            "state": "disabled" if self.disabled else "enabled",
            "reason": self.disabled or None,
            "failures": self.failures,
            "created": iso(self.created),
            "created_by": self.created_by,
            "delivered": iso(self.delivered),
        }


class Webhooks:
    """The webhooks of all tenants, and what they are sent."""

    def __init__(self, storage: Storage, outgoing: Outgoing, signing_key: str | None, base_url: str) -> None:
        """``signing_key`` is what all secrets are derived from; without it no webhook can be made."""
        self._storage = storage
        self._outgoing = outgoing
        self._signing_key = signing_key
        self._base_url = base_url
        self._has_some: dict[str, tuple[float, bool]] = {}

    # --- their lives ---

    async def create(
        self, tenant: str, url: str, *, kinds: tuple[str, ...], states: tuple[str, ...], by: str
    ) -> tuple[Webhook, str]:
        """A new webhook and its secret. Raises `UrlRefused`, and `Conflict` beyond `MAX_WEBHOOKS`."""
        self._outgoing.check(url)
        if len([each async for each in self.of(tenant)]) >= MAX_WEBHOOKS:
            raise Conflict(f"A tenant has at most {MAX_WEBHOOKS} webhooks.", limit=MAX_WEBHOOKS)
        webhook = Webhook(tenant, secrets.token_hex(16), url, kinds, states, time.time(), by)
        secret = self._secret(webhook, webhook.secret)
        await self._storage.insert_row(TABLE, webhook.to_row())
        self._has_some.pop(tenant, None)
        return webhook, secret

    async def of(self, tenant: str) -> AsyncIterator[Webhook]:
        """The tenant's webhooks."""
        async for row in self._storage.query_rows(TABLE, tenant):
            yield Webhook.from_row(row)

    async def get(self, tenant: str, webhook: str) -> Webhook:
        """One webhook; `NotFound` where the tenant has none of that id."""
        row = await self._storage.get_row(TABLE, tenant, webhook) if webhook.isalnum() else None
        if row is None:
            raise NotFound("webhook", webhook[:64])
        return Webhook.from_row(row)

    async def delete(self, tenant: str, webhook: str) -> None:
        """Forget a webhook: what has not been delivered by now never is."""
        await self.get(tenant, webhook)
        await self._storage.delete_row(TABLE, tenant, webhook)

    async def rotate(self, tenant: str, webhook: str) -> tuple[Webhook, str]:
        """Give a webhook a new secret; the former one signs beside it for `OVERLAP_SECONDS`."""
        found = await self.get(tenant, webhook)
        changed = await self._change(tenant, webhook, secret=found.secret + 1, rotated=time.time())
        return changed, self._secret(changed, changed.secret)

    async def enable(self, tenant: str, webhook: str) -> Webhook:
        """Use a webhook again that was disabled."""
        await self.get(tenant, webhook)
        return await self._change(tenant, webhook, disabled="", failures=0)

    async def rename_creator(self, tenant: str, user: str, pseudonym: str) -> int:
        """Name another creator of a user's webhooks, which go on working; their number."""
        own = [webhook.id async for webhook in self.of(tenant) if webhook.created_by == user]
        for webhook in own:
            await self._change(tenant, webhook, created_by=pseudonym)
        return len(own)

    async def forget_job(self, job: Job) -> None:
        """Forget the announced ends of a job: what was not delivered never is."""
        for attempt in range(1, job.attempt + 1):
            await self.forget_end(Ticket(job.tenant, job.id, attempt))

    # --- ends of jobs ---

    async def expect_end(self, ticket: Ticket) -> None:
        """Announce that a job is about to end, where its tenant has webhooks."""
        if await self._has_webhooks(ticket.tenant):
            row = {
                "PartitionKey": ENDED,
                "RowKey": ticket.instance,
                "tenant": ticket.tenant,
                "job": ticket.job,
                "attempt": ticket.attempt,
            }
            await self._storage.put_row(TABLE, row)

    async def expected_ends(self) -> AsyncIterator[Ticket]:
        """The ends that were announced and whose messages may not be on their way yet."""
        async for row in self._storage.query_rows(TABLE, ENDED):
            yield Ticket(row["tenant"], row["job"], row["attempt"])

    async def forget_end(self, ticket: Ticket) -> None:
        """The deliveries of an announced end exist."""
        await self._storage.delete_row(TABLE, ENDED, ticket.instance)

    # --- messages ---

    async def deliver(self, webhook: Webhook, job: Job) -> bool:
        """Send the message that ``job`` has ended; whether it was taken."""
        body = json.dumps(self._message(job), separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            **self._signed(webhook, derived_id(webhook.id, job.ticket.instance), body, int(time.time())),
        }
        try:
            await self._outgoing.post(webhook.url, body, headers)
        except GroundworkError:
            return False
        await self._change(webhook.tenant, webhook.id, failures=0, delivered=time.time())
        return True

    async def give_up(self, webhook: Webhook) -> None:
        """A message was never taken; after `DISABLED_AFTER` of them in a row no more are sent."""
        failures = webhook.failures + 1
        disabled = f"{failures} messages in a row were not taken." if failures >= DISABLED_AFTER else ""
        await self._change(webhook.tenant, webhook.id, failures=failures, disabled=disabled)

    def _message(self, job: Job) -> dict[str, Any]:
        """What a receiver is told: that a job has ended and where to ask for more. No names, no content."""
        return {
            "type": f"job.{job.state.value}",
            "timestamp": iso(job.updated),
            "data": {
                "id": job.id,
                "kind": job.kind.value,
                "state": job.state.value,
                "attempt": job.attempt,
                "collection": job.collection,
                "counts": dict(job.counts or {}),
                "url": f"{self._base_url}/api/jobs/{job.id}",
            },
        }

    def _signed(self, webhook: Webhook, message: str, body: bytes, at: int) -> dict[str, str]:
        numbers = [webhook.secret]
        if webhook.secret > 1 and at - webhook.rotated < OVERLAP_SECONDS:
            numbers.append(webhook.secret - 1)
        content = f"{message}.{at}.".encode() + body
        signatures = (
            hmac.digest(_key_of(self._secret(webhook, number)), content, "sha256") for number in numbers
        )
        return {
            "webhook-id": message,
            "webhook-timestamp": str(at),
            "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in signatures),
        }

    def _secret(self, webhook: Webhook, number: int) -> str:
        if not self._signing_key:
            raise Conflict("Webhooks are off here: the setting GROUNDWORK_SIGNING_KEY is not set.")
        about = f"webhook\0{webhook.tenant}\0{webhook.id}\0{number}".encode()
        return "whsec_" + base64.b64encode(hmac.digest(self._signing_key.encode(), about, "sha256")).decode()

    async def _has_webhooks(self, tenant: str) -> bool:
        known = self._has_some.get(tenant)
        if known is None or known[0] < time.monotonic():
            found = [row async for row in self._storage.query_rows(TABLE, tenant, limit=1)]
            if len(self._has_some) >= CACHE_TENANTS:
                self._has_some.clear()
            self._has_some[tenant] = known = (time.monotonic() + CACHE_SECONDS, bool(found))
        return known[1]

    async def _change(self, tenant: str, webhook: str, **changes: Any) -> Webhook:
        for _ in range(WRITE_TRIES):
            found = await self.get(tenant, webhook)
            changed = replace(found, **changes)
            try:
                await self._storage.replace_row(TABLE, changed.to_row(), found.etag)
                return changed
            except Changed:
                continue
        raise Conflict("The webhook is being changed by others.", retry_after=1)


def _key_of(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_"))
