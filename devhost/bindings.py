"""Feeds a function's input bindings and delivers its outputs to queues and blobs."""

import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import azure.functions as func
from azure.functions.meta import Datum

from devhost.connections import Connections
from devhost.errors import AppLoadError, SettingsError
from devhost.expressions import check_template, fill
from devhost.plans import RETURN, Parameter, Plan, converter
from devhost.settings import resolve_app_settings


class Out(func.Out[Any]):
    """The object a function sets an output on."""

    def __init__(self) -> None:
        self._value: Any = None

    def set(self, val: Any) -> None:
        self._value = val

    def get(self) -> Any:
        return self._value


class Bindings:
    """The inputs and outputs of all functions, over one set of storage connections."""

    def __init__(
        self,
        connections: Connections,
        settings: Mapping[str, str],
        *,
        base64_messages: bool,
        durable_client: Callable[[], str],
    ) -> None:
        self._connections = connections
        self._settings = settings
        self._base64_messages = base64_messages
        self._durable_client = durable_client

    def check(self, plan: Plan) -> None:
        """Raises AppLoadError when a binding names a setting, connection or expression that cannot work."""
        outputs = [*plan.outputs, *([plan.returned] if plan.returned else [])]
        for parameter in (plan.trigger, *plan.inputs, *outputs):
            binding = parameter.binding
            try:
                if "queue" in binding.type:
                    self._connections.check(binding.connection, "queue")
                    check_template(self.resolve(binding.queue_name))
                elif "blob" in binding.type:
                    self._connections.check(binding.connection, "blob")
                    check_template(self.resolve(binding.path))
                elif binding.type == "timerTrigger":
                    self.resolve(binding.schedule)
            except (AppLoadError, SettingsError) as error:
                raise AppLoadError(f"function {plan.name!r}, binding {binding.name!r}: {error}") from error

    def resolve(self, text: str) -> str:
        """`text` of a binding with its `%SETTING%` parts filled in."""
        return resolve_app_settings(text, self._settings)

    async def arguments(self, plan: Plan, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values of every parameter but the trigger's; `values` are the trigger's binding data."""
        arguments: dict[str, Any] = {}
        for parameter in plan.inputs:
            if parameter.binding.type == "durableClient":
                arguments[parameter.name] = parameter.decode(Datum(self._durable_client(), "string"), None)
            else:
                arguments[parameter.name] = await self._read_blob(parameter, values)
        for parameter in plan.outputs:
            arguments[parameter.name] = Out()
        return arguments

    async def deliver(
        self, plan: Plan, arguments: Mapping[str, Any], result: Any, values: Mapping[str, Any]
    ) -> None:
        """Send what the function set on its outputs and, unless that is the HTTP response, returned."""
        for parameter in plan.outputs:
            value = arguments[parameter.name].get()
            if value is not None:
                await self._deliver_one(parameter, value, values)
        if result is not None and plan.returned is not None and plan.returned.binding.type != "http":
            await self._deliver_one(plan.returned, result, values)

    async def _read_blob(self, parameter: Parameter, values: Mapping[str, Any]) -> Any:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            client = self._blob_client(parameter, values)
            content = await (await client.download_blob()).readall()
        except ResourceNotFoundError:
            return None
        return parameter.decode(Datum(content, "bytes"), None)

    async def _deliver_one(self, parameter: Parameter, value: Any, values: Mapping[str, Any]) -> None:
        name = "the return value" if parameter.name == RETURN else parameter.name
        try:
            datum = converter(parameter.binding.type).encode(value, expected_type=parameter.annotation)
        except NotImplementedError as error:
            kind = type(value).__name__
            raise TypeError(f"{name}: a {parameter.binding.type} binding cannot take {kind}") from error
        if parameter.binding.type == "blob":
            await self._blob_client(parameter, values).upload_blob(datum.value, overwrite=True)
            return
        queue = self._connections.queues(parameter.binding.connection).get_queue_client(
            fill(self.resolve(parameter.binding.queue_name), values)
        )
        for message in _messages(value, datum):
            await send_message(queue, encode_message(message, self._base64_messages))

    def _blob_client(self, parameter: Parameter, values: Mapping[str, Any]) -> Any:
        container, _, blob = fill(self.resolve(parameter.binding.path), values).partition("/")
        return self._connections.blobs(parameter.binding.connection).get_blob_client(container, blob)


def encode_message(body: bytes, base64_messages: bool) -> str:
    """The text under which `body` lies in a queue with that host.json `messageEncoding`."""
    return base64.b64encode(body).decode() if base64_messages else body.decode()


async def send_message(queue: Any, text: str) -> None:
    """Put `text` in a queue, which is created if it is not there; for ever, as the extension does."""
    from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

    try:
        await queue.send_message(text, time_to_live=-1)
    except ResourceNotFoundError:
        with contextlib.suppress(ResourceExistsError):
            await queue.create_queue()
        await queue.send_message(text, time_to_live=-1)


def _messages(value: Any, datum: Datum) -> list[bytes]:
    """The message bodies of one queue output: a list stands for several messages."""
    if isinstance(value, func.QueueMessage):
        return [value.get_body()]
    if datum.type == "json":
        items = json.loads(datum.value)
        return [(item if isinstance(item, str) else item["body"]).encode() for item in items]
    return [datum.value.encode() if isinstance(datum.value, str) else datum.value]
