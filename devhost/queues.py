"""Queue triggers: polls a storage queue and runs its function once per message, at least once."""

import asyncio
import base64
import binascii
import contextlib
import json
import logging
import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from azure.functions.meta import Datum

from devhost import failpoints
from devhost.bindings import Bindings, send_message
from devhost.connections import Connections
from devhost.invocation import Invoker
from devhost.plans import Plan
from devhost.settings import QueueOptions

log = logging.getLogger(__name__)

POISON_SUFFIX = "-poison"
# How long a message stays hidden once fetched; renewed while its function runs. The Functions host takes
# ten minutes. A laptop's host is killed and restarted all the time, and this is how long work waits then.
LEASE_SECONDS = 30
# A lease is renewed well before its end: two renewals may fail before the message is seen by others.
RENEWALS_PER_LEASE = 3
# First step of the polling back-off (QueuePollingIntervals.Minimum of the storage extension).
MIN_POLLING_INTERVAL_SECONDS = 0.1
# How long to wait when the storage server does not answer.
OUTAGE_RETRY_SECONDS = 1.0


class QueueListener:
    """Feeds one function from its queue until it is stopped."""

    def __init__(
        self,
        plan: Plan,
        options: QueueOptions,
        connections: Connections,
        bindings: Bindings,
        invoker: Invoker,
        *,
        lease_seconds: int = LEASE_SECONDS,
    ) -> None:
        trigger = plan.function.trigger
        service = connections.queues(trigger.connection)
        name = bindings.resolve(trigger.queue_name)
        self._plan, self._options, self._bindings, self._invoker = plan, options, bindings, invoker
        self._name, self._lease_seconds = name, lease_seconds
        self._queue = service.get_queue_client(name)
        self._poison = service.get_queue_client(name + POISON_SUFFIX)
        self.running: set[asyncio.Task[None]] = set()
        self._one_ended = asyncio.Event()

    async def listen(self) -> None:
        """Poll until cancelled; the messages in `running` go on."""
        delay, reachable = 0.0, True
        while True:
            await self._wait_for_room()
            try:
                fetched = await self._fetch()
            except Exception as error:
                if reachable:
                    fields = {
                        "queue": self._name,
                        "error": type(error).__name__,
                        "detail": _first_line(error),
                    }
                    log.warning("queue_unreachable", extra={"fields": fields})
                reachable, delay = False, OUTAGE_RETRY_SECONDS
            else:
                if not reachable:
                    log.warning("queue_reachable_again", extra={"fields": {"queue": self._name}})
                reachable = True
                delay = 0.0 if fetched else self._next_delay(delay)
            await asyncio.sleep(delay)

    def _next_delay(self, delay: float) -> float:
        """Doubling, randomised by a fifth so that several hosts do not poll in step."""
        longer = max(MIN_POLLING_INTERVAL_SECONDS, delay * 2 * random.uniform(0.8, 1.2))
        return min(longer, self._options.max_polling_interval_seconds)

    async def _wait_for_room(self) -> None:
        """Wait until no more than newBatchThreshold messages are being processed."""
        while len(self.running) > self._options.new_batch_threshold:
            self._one_ended.clear()
            await self._one_ended.wait()

    async def _fetch(self) -> int:
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        fetched = 0
        try:
            pages = self._queue.receive_messages(
                messages_per_page=self._options.batch_size,
                max_messages=self._options.batch_size,
                visibility_timeout=self._lease_seconds,
            )
            async for message in pages:
                fetched += 1
                task = asyncio.create_task(self._process(message))
                self.running.add(task)
                task.add_done_callback(self._ended)
        except ResourceNotFoundError:
            with contextlib.suppress(ResourceExistsError):
                await self._queue.create_queue()
        return fetched

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        self._one_ended.set()
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            log.error("queue_message_not_settled", extra={"fields": {"queue": self._name}}, exc_info=error)

    async def _process(self, message: Any) -> None:
        body = self._decode(message.content)
        if body is None:
            log.error("queue_message_undecodable", extra={"fields": self._fields(message)})
            await self._move_to_poison(message)
        elif message.dequeue_count > self._options.max_dequeue_count:
            # The host died in each earlier try, before it could count them.
            await self._move_to_poison(message)
        else:
            renewal = asyncio.create_task(self._renew(message))
            try:
                succeeded = await self._run(message, body)
            finally:
                renewal.cancel()
                await asyncio.wait([renewal])
            await self._settle(message, succeeded)

    def _decode(self, content: str) -> bytes | None:
        if not self._options.base64_messages:
            return content.encode()
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            return None

    async def _run(self, message: Any, body: bytes) -> bool:
        metadata = _metadata(message, body)
        values = _binding_data(message, body)
        wants_bytes = self._plan.function.trigger.data_type == 2  # DataType.BINARY
        datum = Datum(body, "bytes") if wants_bytes or not _is_text(body) else Datum(body.decode(), "string")
        try:
            await self._invoker.run(
                self._plan, self._plan.trigger.decode(datum, metadata), values, self._bindings
            )
        except Exception:
            return False  # the invoker has logged it
        return True

    async def _settle(self, message: Any, succeeded: bool) -> None:
        failpoints.passed("queue.handled")
        if succeeded:
            await self._delete(message)
        elif message.dequeue_count >= self._options.max_dequeue_count:
            await self._move_to_poison(message)
        else:
            await self._update_visibility(message, int(self._options.visibility_timeout_seconds))

    async def _renew(self, message: Any) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / RENEWALS_PER_LEASE)
            try:
                await self._update_visibility(message, self._lease_seconds)
            except Exception as error:
                fields = {**self._fields(message), "error": type(error).__name__}
                log.warning("queue_lease_not_renewed", extra={"fields": fields})

    async def _update_visibility(self, message: Any, seconds: int) -> None:
        with self._lease_may_be_lost(message):
            updated = await self._queue.update_message(message, visibility_timeout=seconds)
            message.pop_receipt = updated.pop_receipt

    async def _delete(self, message: Any) -> None:
        with self._lease_may_be_lost(message):
            await self._queue.delete_message(message)

    @contextlib.contextmanager
    def _lease_may_be_lost(self, message: Any) -> Iterator[None]:
        """The message is gone, or another fetch has it since its lease ended: it is that one's to settle."""
        from azure.core.exceptions import HttpResponseError

        try:
            yield
        except HttpResponseError as error:
            if getattr(error, "error_code", "") not in ("MessageNotFound", "PopReceiptMismatch"):
                raise
            log.warning("queue_lease_lost", extra={"fields": self._fields(message)})

    async def _move_to_poison(self, message: Any) -> None:
        await send_message(self._poison, message.content)
        await self._delete(message)
        log.error("queue_message_poisoned", extra={"fields": self._fields(message)})

    def _fields(self, message: Any) -> dict[str, Any]:
        return {"queue": self._name, "message": message.id, "dequeue_count": message.dequeue_count}


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _metadata(message: Any, body: bytes) -> dict[str, Datum]:
    """Trigger metadata under the names that the storage extension sends to the worker."""
    return {
        "QueueTrigger": Datum(body.decode("utf-8", "replace"), "string"),
        "Id": Datum(message.id, "string"),
        "DequeueCount": Datum(message.dequeue_count, "int"),
        "InsertionTime": Datum(_time(message.inserted_on), "string"),
        "ExpirationTime": Datum(_time(message.expires_on), "string"),
        "NextVisibleTime": Datum(_time(message.next_visible_on), "string"),
        "PopReceipt": Datum(message.pop_receipt, "string"),
    }


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S+00:00")


def _binding_data(message: Any, body: bytes) -> dict[str, Any]:
    """What `{name}` in other bindings of the function may use: metadata and the fields of a JSON object."""
    text = body.decode("utf-8", "replace")
    data: dict[str, Any] = {"queueTrigger": text, "id": message.id, "dequeueCount": message.dequeue_count}
    try:
        document = json.loads(text)
    except ValueError:
        return data
    return {**data, **document} if isinstance(document, dict) else data


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
