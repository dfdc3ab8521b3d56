"""Log lines of the host and of the app's functions, with invocation ids, by host.json's log levels."""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from devhost.errors import SettingsError
from devhost.invocation import Invocation, current, invocation_of_this_thread

# host.json level names (https://learn.microsoft.com/azure/azure-functions/configure-monitoring#configure-log-levels)
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "information": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "none": logging.CRITICAL + 10,
}
MASK = "***"
RESULTS = "Host.Results"
# Libraries of the host itself that report every request at INFO.
_QUIET = ("azure.core.pipeline.policies.http_logging_policy", "uvicorn.error", "uvicorn.access")


def set_up_logging(
    levels: Mapping[str, str], style: str, secrets: tuple[str, ...]
) -> Callable[[Invocation], None]:
    """Send every record of this process to stderr as `text` or `json` lines, with `secrets` masked.

    Returns what writes the line of an invocation that succeeded.
    """
    thresholds = _thresholds(levels)
    handler = logging.StreamHandler(sys.stderr)
    line_of = _json_line if style == "json" else _text_line
    handler.setFormatter(_Lines(line_of, secrets))
    by_category: dict[str, int] = {}
    handler.addFilter(lambda record: _admit(record, thresholds, by_category))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # The worker lets INFO and above through; below that only what host.json asks for.
    root.setLevel(min(logging.INFO, *thresholds.values()) if thresholds else logging.INFO)
    _skip_what_no_line_shows()
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    # An aborted stream is logged with its reason and its invocation; uvicorn's line for it has neither.
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: "without completing" not in record.getMessage()
    )
    # Results of invocations are the host's busiest lines: skip making those nobody will see.
    results = logging.getLogger("devhost.invocation")
    results.setLevel(_threshold(RESULTS, thresholds))
    return _success_writer(handler, results, line_of)


def _success_writer(
    handler: logging.StreamHandler[Any],
    results: logging.Logger,
    line_of: Callable[[logging.LogRecord, str | None], str],
) -> Callable[[Invocation], None]:
    """Writes the host's busiest line, that of each request, for a fifth of what a logger takes for it."""
    shown = logging.makeLogRecord(
        {"name": results.name, "levelno": logging.INFO, "levelname": "INFO", "msg": "function_succeeded"}
    )
    own = shown.__dict__
    own["category"] = RESULTS

    def write(invocation: Invocation) -> None:
        if not results.isEnabledFor(logging.INFO):
            return
        now = time.time()
        with handler.lock or nullcontext():
            shown.created, shown.msecs = now, now % 1 * 1000
            own["function_name"], own["invocation_id"] = invocation.function_name, invocation.id
            own["fields"] = {"duration_ms": invocation.elapsed_ms}
            with suppress(OSError):  # as a logger does: on a full disk a line is lost, and nothing else
                handler.stream.write(line_of(shown, None) + "\n")

    return write


def _skip_what_no_line_shows() -> None:
    """Caller, thread and process of a record cost more than all the rest (logging HOWTO, "Optimization")."""
    logging._srcfile = None  # type: ignore[attr-defined]
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _thresholds(levels: Mapping[str, str]) -> dict[str, int]:
    unknown = [level for level in levels.values() if level.lower() not in _LEVELS]
    if unknown:
        raise SettingsError(f"host.json logging.logLevel: {unknown[0]!r} is none of {sorted(_LEVELS)}")
    return {category.lower(): _LEVELS[level.lower()] for category, level in levels.items()}


def _threshold(category: str, thresholds: Mapping[str, int]) -> int:
    """The level of the longest configured prefix of `category`, else of `default`, else Information."""
    parts = category.lower().split(".")
    for length in range(len(parts), 0, -1):
        level = thresholds.get(".".join(parts[:length]))
        if level is not None:
            return level
    return thresholds.get("default", logging.INFO)


def _admit(record: logging.LogRecord, thresholds: Mapping[str, int], by_category: dict[str, int]) -> bool:
    invocation = current.get()
    function = invocation.function_name if invocation else None
    category = _category(record.name, function)
    record.__dict__["invocation_id"] = invocation.id if invocation else invocation_of_this_thread()
    record.__dict__["function_name"] = function
    record.__dict__["category"] = category
    level = by_category.get(category)
    if level is None:
        level = by_category[category] = _threshold(category, thresholds)
    return record.levelno >= level


def _category(logger: str, function: str | None) -> str:
    """The Functions host's name for what wrote the record."""
    if logger == "devhost.invocation":
        return RESULTS
    if logger.startswith("devhost"):
        return "Host." + logger.rpartition(".")[2].capitalize()
    return f"Function.{function}.User" if function else logger


class _Lines(logging.Formatter):
    """Formats a record with `line` and masks the host's keys in what comes out."""

    def __init__(
        self, line: Callable[[logging.LogRecord, str | None], str], secrets: tuple[str, ...]
    ) -> None:
        super().__init__()
        self._line, self._secrets = line, secrets

    def format(self, record: logging.LogRecord) -> str:
        error = self.formatException(record.exc_info) if record.exc_info else None
        line = self._line(record, error)
        for secret in self._secrets:
            if secret in line:
                line = line.replace(secret, MASK)
        return line


@lru_cache(maxsize=1)
def _time_of_day(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


def _text_line(record: logging.LogRecord, error: str | None) -> str:
    own = record.__dict__
    moment = f"{_time_of_day(int(record.created))}.{int(record.msecs):03}"
    words = [moment, record.levelname, own["category"], record.getMessage()]
    if own["category"] == RESULTS:
        words.append(f"function={own['function_name']}")
    words += [f"{name}={value}" for name, value in _fields(record).items()]
    if own["invocation_id"]:
        words.append(f"invocation={own['invocation_id']}")
    return " ".join(words) + (f"\n{error}" if error else "")


def _json_line(record: logging.LogRecord, error: str | None) -> str:
    own = record.__dict__
    line = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
        "level": record.levelname,
        "category": own["category"],
        "event": record.getMessage(),
        "function": own["function_name"],
        "invocation": own["invocation_id"],
        **_fields(record),
        "traceback": error,
    }
    return json.dumps({name: value for name, value in line.items() if value is not None}, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return record.__dict__.get("fields", {})
