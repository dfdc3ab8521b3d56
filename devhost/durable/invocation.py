"""Invokes an activity as the Python worker does, through the SDK's own converters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from azure.functions.durable_functions import ActivityTriggerConverter
from azure.functions.meta import Datum

from .functions import AppFunction

# (function, JSON-encoded input, {instanceId, executionId, taskId}) -> JSON-encoded result
InvokeActivity = Callable[[AppFunction, str | None, dict[str, Any]], Awaitable[str | None]]


def converter_invocation(pool: ThreadPoolExecutor) -> InvokeActivity:
    """Invokes activities with their trigger's input alone: async ones on the loop, others in `pool`."""

    async def invoke(function: AppFunction, payload: str | None, context: dict[str, Any]) -> str | None:
        value = ActivityTriggerConverter.decode(Datum(payload or "null", "json"), trigger_metadata=context)
        call = partial(function.user_function, **{function.trigger.name: value})
        if function.is_async:
            result = await call()
        else:
            result = await asyncio.get_running_loop().run_in_executor(pool, call)
        return ActivityTriggerConverter.encode(result, expected_type=None).value

    return invoke
