"""Runs functions: async ones on the loop, sync ones in the worker's thread pool, each under its own id."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import azure.functions as func

from devhost.errors import FunctionTimeoutError, SettingsError
from devhost.plans import Plan

if TYPE_CHECKING:
    from devhost.bindings import Bindings

THREAD_COUNT_SETTING = "PYTHON_THREADPOOL_THREAD_COUNT"
THREAD_COUNT_RANGE = (1, 32)  # the worker's own limits for that setting

# Invocations are ended late by a twentieth of their limit at most, and by a second.
CHECKS_PER_TIMEOUT = 20
LONGEST_CHECK_PAUSE_SECONDS = 1.0

log = logging.getLogger(__name__)
current: ContextVar["Invocation | None"] = ContextVar("invocation", default=None)
_thread_local = threading.local()


class _TraceContext(func._abc.TraceContext):
    """W3C trace context of an invocation."""

    def __init__(self, trace_parent: str, trace_state: str) -> None:
        self._trace_parent, self._trace_state = trace_parent, trace_state

    @property
    def trace_parent(self) -> str:
        return self._trace_parent

    @property
    def trace_state(self) -> str:
        return self._trace_state

    @property
    def attributes(self) -> dict[str, str]:
        return {}

    # The names that apps written for older workers use.
    Traceparent = trace_parent
    Tracestate = trace_state
    Attributes = attributes


class _RetryContext(func._abc.RetryContext):
    """Retry policies are refused when the app loads, so this is always the first and only try."""

    @property
    def retry_count(self) -> int:
        return 0

    @property
    def max_retry_count(self) -> int:
        return 0

    @property
    def exception(self) -> Any:
        return None


class InvocationContext(func.Context):
    """The `context` argument of a function."""

    def __init__(self, invocation: "Invocation", directory: Path) -> None:
        self._invocation, self._directory = invocation, directory

    @property
    def invocation_id(self) -> str:
        return self._invocation.id

    @property
    def thread_local_storage(self) -> Any:
        return _thread_local

    @property
    def function_name(self) -> str:
        return self._invocation.function_name

    @property
    def function_directory(self) -> str:
        return str(self._directory)

    @property
    def trace_context(self) -> func._abc.TraceContext:
        headers = dict(self._invocation.headers)
        parent, state = headers.get(b"traceparent", b""), headers.get(b"tracestate", b"")
        return _TraceContext(parent.decode("latin-1"), state.decode("latin-1"))

    @property
    def retry_context(self) -> func._abc.RetryContext:
        return _RetryContext()


def _new_id() -> str:
    """A random UUID as text, at a fraction of the cost of making a UUID object for every request."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


@dataclass(slots=True)
class Invocation:
    """One run of one function; `headers` are those of the HTTP request that asked for it."""

    function_name: str
    headers: Iterable[tuple[bytes, bytes]] = ()
    id: str = field(default_factory=_new_id)
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_ms(self) -> int:
        return round((time.perf_counter() - self.started) * 1000)


def invocation_of_this_thread() -> str | None:
    """The id that code in a thread of its own took over with `context.thread_local_storage`."""
    return getattr(_thread_local, "invocation_id", None)


@dataclass(slots=True, eq=False)
class _Limit:
    """When a task has to be done; `cancelling` are the requests to cancel it that were there before."""

    task: asyncio.Task[Any]
    deadline: float
    cancelling: int
    expired: bool = False


class Invoker:
    """Calls functions with the time limit, the threads and the log lines of the Functions host."""

    def __init__(
        self,
        settings: Mapping[str, str],
        app_dir: Path,
        timeout_seconds: float | None,
        succeeded: "Callable[[Invocation], None]" = lambda invocation: None,
    ) -> None:
        """`succeeded` is told of each invocation that went well, to log it."""
        self.timeout_seconds = timeout_seconds
        self._app_dir = app_dir
        self._succeeded = succeeded
        self._limits: set[_Limit] = set()
        self._checking = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._threads = ThreadPoolExecutor(_thread_count(settings), thread_name_prefix="function")

    @property
    def running(self) -> int:
        """How many invocations are under way."""
        return self._running

    def begin(self, plan: Plan, headers: Iterable[tuple[bytes, bytes]] = ()) -> Invocation:
        """Start an invocation: gives it its id and counts it; every begin needs one `end`."""
        invocation = Invocation(plan.name, headers)
        current.set(invocation)
        self._running += 1
        self._idle.clear()
        return invocation

    def end(self, invocation: Invocation, error: BaseException | None) -> None:
        """Finish an invocation and log how it went."""
        self._running -= 1
        if self._running == 0:
            self._idle.set()
        if error is None:
            self._succeeded(invocation)
        elif isinstance(error, FunctionTimeoutError):
            log.error("function_timed_out", extra={"fields": _timeout_fields(self, invocation)})
        elif isinstance(error, asyncio.CancelledError):
            log.warning("function_cancelled", extra={"fields": {"duration_ms": invocation.elapsed_ms}})
        else:
            fields = {"duration_ms": invocation.elapsed_ms, "error": type(error).__name__}
            log.error("function_failed", extra={"fields": fields}, exc_info=error)
        current.set(None)

    async def run(
        self, plan: Plan, trigger_value: Any, values: Mapping[str, Any], bindings: "Bindings"
    ) -> Any:
        """One whole run of a function that no request waits for: inputs, call, outputs, log line.

        `values` are the trigger's binding data. Raises what the function or a binding raised, once logged.
        """
        invocation = self.begin(plan)
        error: BaseException | None = None
        try:
            return await self.limited(self._run(plan, trigger_value, values, bindings, invocation))
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.end(invocation, error)

    async def _run(
        self,
        plan: Plan,
        trigger_value: Any,
        values: Mapping[str, Any],
        bindings: "Bindings",
        invocation: Invocation,
    ) -> Any:
        arguments = await bindings.arguments(plan, values)
        arguments[plan.trigger.name] = trigger_value
        result = await self.call(plan, arguments, invocation)
        await bindings.deliver(plan, arguments, result, values)
        return result

    async def limited(self, work: Any) -> Any:
        """Await `work` within host.json `functionTimeout`; FunctionTimeoutError when it takes longer.

        A timer for each call would cost a small request a tenth of its time; limits of minutes bear to be
        looked at together, now and then.
        """
        if self.timeout_seconds is None:
            return await work
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        limit = _Limit(task, loop.time() + self.timeout_seconds, task.cancelling())
        self._limits.add(limit)
        if not self._checking:
            self._checking = True
            self._check_later(loop)
        try:
            return await work
        except asyncio.CancelledError:
            # As asyncio.timeout does: a cancellation by someone else goes its own way.
            if limit.expired and task.uncancel() <= limit.cancelling:
                raise FunctionTimeoutError from None
            raise
        finally:
            self._limits.discard(limit)

    def _check_later(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self.timeout_seconds is not None
        pause = min(LONGEST_CHECK_PAUSE_SECONDS, self.timeout_seconds / CHECKS_PER_TIMEOUT)
        loop.call_later(pause, self._check_limits, loop)

    def _check_limits(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel what has taken too long, and look again while anything runs."""
        now = loop.time()
        for limit in self._limits:
            if limit.deadline <= now and not limit.expired:
                limit.expired = True
                limit.task.cancel()
        self._checking = bool(self._limits)
        if self._checking:
            self._check_later(loop)

    async def call(self, plan: Plan, arguments: dict[str, Any], invocation: Invocation) -> Any:
        """The function's return value for `arguments` (name → value, without the context)."""
        if plan.wants_context:
            arguments = {**arguments, "context": InvocationContext(invocation, self._app_dir)}
        user_function = plan.function.user_function
        if plan.function.is_async:
            result = await user_function(**arguments)
        else:
            work = partial(_call_in_thread, invocation.id, user_function, arguments)
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._threads, copy_context().run, work)
        if result is not None and plan.returned is None and not plan.implicit_return:
            raise RuntimeError(f"function {plan.name!r} has no $return binding but returned a value")
        return result

    async def drain(self, seconds: float) -> bool:
        """Wait until nothing runs; False when something still does after `seconds`."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Release the threads; queued calls are dropped, running ones are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _call_in_thread(invocation_id: str, user_function: Any, arguments: dict[str, Any]) -> Any:
    _thread_local.invocation_id = invocation_id
    try:
        return user_function(**arguments)
    finally:
        _thread_local.invocation_id = None


def _timeout_fields(invoker: Invoker, invocation: Invocation) -> dict[str, Any]:
    return {
        "duration_ms": invocation.elapsed_ms,
        "limit_seconds": invoker.timeout_seconds,
        "hint": "host.json functionTimeout; a sync function keeps its thread until it returns",
    }


def _thread_count(settings: Mapping[str, str]) -> int | None:
    text = settings.get(THREAD_COUNT_SETTING)
    if text is None:
        return None
    least, most = THREAD_COUNT_RANGE
    if not text.isdigit() or not least <= int(text) <= most:
        raise SettingsError(
            f"{THREAD_COUNT_SETTING} must be a whole number from {least} to {most}, not {text!r}"
        )
    return int(text)
