"""Reads host.json and local.settings.json the way the Functions host does."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devhost.errors import SettingsError

# host.json can be overridden by app settings of this prefix, `__` between the levels
# (https://learn.microsoft.com/azure/azure-functions/functions-host-json#override-hostjson-values).
HOST_JSON_OVERRIDE_PREFIX = "AzureFunctionsJobHost__"
DEFAULT_ROUTE_PREFIX = "api"  # functions-host-json#http
DEFAULT_FUNCTION_TIMEOUT_SECONDS = 30 * 60  # Flex Consumption default, functions-scale#timeout
# storage queue defaults: functions-host-json#queues
DEFAULT_QUEUE_BATCH_SIZE = 16
DEFAULT_MAX_DEQUEUE_COUNT = 5
DEFAULT_MAX_POLLING_INTERVAL_SECONDS = 60.0
MAX_QUEUE_BATCH_SIZE = 32  # the storage service hands out no more in one call
# blob defaults: functions-host-json#blobs (there: 8 x cores for the degree; a laptop gets by with 8)
DEFAULT_BLOB_PARALLELISM = 8
DEFAULT_POISON_BLOB_THRESHOLD = 5

_TIME_SPAN = re.compile(r"^(?:(\d+)\.)?(\d{1,2}):(\d{1,2}):(\d{1,2}(?:\.\d+)?)$")
_APP_SETTING = re.compile(r"%([^%\s]+)%")


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """host.json `extensions.queues`; times in seconds."""

    batch_size: int = DEFAULT_QUEUE_BATCH_SIZE
    new_batch_threshold: int = DEFAULT_QUEUE_BATCH_SIZE // 2
    max_dequeue_count: int = DEFAULT_MAX_DEQUEUE_COUNT
    visibility_timeout_seconds: float = 0.0
    max_polling_interval_seconds: float = DEFAULT_MAX_POLLING_INTERVAL_SECONDS
    base64_messages: bool = True


@dataclass(frozen=True, slots=True)
class BlobOptions:
    """host.json `extensions.blobs`."""

    max_degree_of_parallelism: int = DEFAULT_BLOB_PARALLELISM
    poison_blob_threshold: int = DEFAULT_POISON_BLOB_THRESHOLD


@dataclass(frozen=True, slots=True)
class HostOptions:
    """What the embedded host honours of host.json. None means unbounded."""

    route_prefix: str = DEFAULT_ROUTE_PREFIX
    max_outstanding_requests: int | None = None
    function_timeout_seconds: float | None = DEFAULT_FUNCTION_TIMEOUT_SECONDS
    queues: QueueOptions = field(default_factory=QueueOptions)
    blobs: BlobOptions = field(default_factory=BlobOptions)
    log_levels: Mapping[str, str] = field(default_factory=dict)
    host_json: Mapping[str, Any] = field(default_factory=dict)


def read_local_settings(path: Path) -> dict[str, str]:
    """The "Values" of a local.settings.json; {} when there is no such file.

    Raises SettingsError for a file that is not JSON, is encrypted, or holds a value that is no text.
    """
    if not path.is_file():
        return {}
    document = _read_json(path)
    if document.get("IsEncrypted"):
        raise SettingsError(f"{path} is encrypted: run `func settings decrypt` first")
    values = document.get("Values", {})
    if not isinstance(values, dict):
        raise SettingsError(f'{path}: "Values" must be an object of text values')
    for name, value in values.items():
        if not isinstance(value, str):
            raise SettingsError(f'{path}: "Values" → {name!r} must be text, as every app setting is')
    return values


def read_host_options(app_dir: Path, settings: Mapping[str, str]) -> HostOptions:
    """host.json of `app_dir`, overridden by `AzureFunctionsJobHost__…` settings, `%NAME%` filled in.

    Raises SettingsError when host.json is missing, is not JSON or holds a value out of its range.
    """
    path = app_dir / "host.json"
    if not path.is_file():
        raise SettingsError(f"no host.json in {app_dir}: the Functions host does not start without one")
    document = _read_json(path)
    if document.get("version") != "2.0":
        raise SettingsError(f'{path}: "version" must be "2.0"')
    _apply_overrides(document, settings)
    document = _fill_in(document, settings)
    extensions = _section(document, "extensions")
    http = _section(extensions, "http")
    return HostOptions(
        route_prefix=str(http.get("routePrefix", DEFAULT_ROUTE_PREFIX)).strip("/"),
        max_outstanding_requests=_max_outstanding(http),
        function_timeout_seconds=_function_timeout(document),
        queues=_queue_options(_section(extensions, "queues")),
        blobs=_blob_options(_section(extensions, "blobs")),
        log_levels=_log_levels(document),
        host_json=document,
    )


def resolve_app_settings(text: str, settings: Mapping[str, str]) -> str:
    """`text` with every `%NAME%` replaced by that app setting; raises SettingsError for an unknown one."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in settings:
            raise SettingsError(f"'%{name}%' does not resolve: there is no app setting {name!r}")
        return settings[name]

    return _APP_SETTING.sub(value, text)


def parse_time_span(text: Any, name: str) -> float:
    """Seconds of a .NET time span such as `00:00:30` or `1.00:00:00`; raises SettingsError naming it."""
    match = _TIME_SPAN.match(text) if isinstance(text, str) else None
    if match is None:
        raise SettingsError(f'host.json {name} must be a time span like "00:00:30", not {text!r}')
    days, hours, minutes, seconds = match.groups()
    return int(days or 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise SettingsError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{path} must hold a JSON object")
    return document


def _apply_overrides(document: dict[str, Any], settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        if not name.lower().startswith(HOST_JSON_OVERRIDE_PREFIX.lower()):
            continue
        *parents, leaf = name[len(HOST_JSON_OVERRIDE_PREFIX) :].split("__")
        section = document
        for key in parents:
            section = section.setdefault(_existing_key(section, key), {})
            if not isinstance(section, dict):
                raise SettingsError(f"app setting {name} points below a value of host.json")
        section[_existing_key(section, leaf)] = _override_value(value)


def _override_value(text: str) -> Any:
    """App settings are text; where it reads as a number or a truth value host.json would hold that."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (bool, int, float)) else text


def _existing_key(section: dict[str, Any], key: str) -> str:
    """Configuration keys are case-insensitive in the host; keep the spelling host.json has."""
    return next((known for known in section if known.lower() == key.lower()), key)


def _fill_in(value: Any, settings: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill_in(item, settings) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_in(item, settings) for item in value]
    return resolve_app_settings(value, settings) if isinstance(value, str) else value


def _section(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = document.get(name, {})
    if not isinstance(section, dict):
        raise SettingsError(f"host.json {name} must be an object")
    return section


def _function_timeout(document: Mapping[str, Any]) -> float | None:
    text = document.get("functionTimeout")
    if text is None:
        return DEFAULT_FUNCTION_TIMEOUT_SECONDS
    return None if text == "-1" else parse_time_span(text, "functionTimeout")


def _max_outstanding(section: Mapping[str, Any]) -> int | None:
    """Unbounded unless given, as on every plan but Consumption (functions-bindings-http-webhook)."""
    if section.get("maxOutstandingRequests", -1) == -1:
        return None
    return _whole_number(section, "http", "maxOutstandingRequests", 1, 1)


def _queue_options(section: Mapping[str, Any]) -> QueueOptions:
    batch_size = _whole_number(
        section, "queues", "batchSize", DEFAULT_QUEUE_BATCH_SIZE, 1, MAX_QUEUE_BATCH_SIZE
    )
    encoding = section.get("messageEncoding", "base64")
    if encoding not in ("base64", "none"):
        raise SettingsError(f'host.json queues.messageEncoding must be "base64" or "none", not {encoding!r}')
    maximum = parse_time_span(section.get("maxPollingInterval", "00:01:00"), "queues.maxPollingInterval")
    return QueueOptions(
        batch_size=batch_size,
        new_batch_threshold=_whole_number(section, "queues", "newBatchThreshold", batch_size // 2, 0),
        max_dequeue_count=_whole_number(section, "queues", "maxDequeueCount", DEFAULT_MAX_DEQUEUE_COUNT, 1),
        visibility_timeout_seconds=parse_time_span(
            section.get("visibilityTimeout", "00:00:00"), "queues.visibilityTimeout"
        ),
        max_polling_interval_seconds=max(maximum, 0.1),
        base64_messages=encoding == "base64",
    )


def _blob_options(section: Mapping[str, Any]) -> BlobOptions:
    return BlobOptions(
        max_degree_of_parallelism=_whole_number(
            section, "blobs", "maxDegreeOfParallelism", DEFAULT_BLOB_PARALLELISM, 1
        ),
        poison_blob_threshold=_whole_number(
            section, "blobs", "poisonBlobThreshold", DEFAULT_POISON_BLOB_THRESHOLD, 1
        ),
    )


def _whole_number(
    section: Mapping[str, Any], area: str, name: str, default: int, least: int, most: int = 2**31 - 1
) -> int:
    value = section.get(name, default)
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = least - 1
    if isinstance(value, bool) or not least <= number <= most:
        raise SettingsError(
            f"host.json {area}.{name} must be a whole number from {least} to {most}, not {value!r}"
        )
    return number


def _log_levels(document: Mapping[str, Any]) -> dict[str, str]:
    levels = _section(_section(document, "logging"), "logLevel")
    return {str(category): str(level) for category, level in levels.items()}
