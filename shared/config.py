"""Settings: parsed once from a mapping into one frozen object, and passed in from there.

No other module of the app reads the environment. `SETTINGS` names every setting with what it is for, so
that the deployment templates and the documentation can be checked against it.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from shared.limits import UNLIMITED, Limits, parse_limits

APP_ROOT = Path(__file__).resolve().parent.parent
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TENANT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


# They stop what runs away, not what is busy: a client of 64 connections on fast models stays below them.
LIMITS = (
    "user_requests_per_minute=12000,user_tokens_per_minute=20000000,"
    "tenant_requests_per_minute=60000,tenant_tokens_per_minute=100000000,"
    "documents=10000000,bytes=10000000000000,running_jobs=20000,jobs_per_day=1000000,"
    "unfinished_documents=100000"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting's name and purpose; ``deployed`` is False for those that only a laptop has."""

    name: str
    purpose: str
    default: str | None = None
    deployed: bool = True


SETTINGS: tuple[Setting, ...] = (
    Setting("GroundworkStorage", "connection string of the storage account (Azurite)", deployed=False),
    Setting("GroundworkStorage__blobServiceUri", "blob endpoint, used with the managed identity"),
    Setting("GroundworkStorage__queueServiceUri", "queue endpoint, used with the managed identity"),
    Setting("GroundworkStorage__tableServiceUri", "table endpoint, used with the managed identity"),
    Setting("GROUNDWORK_IDENTITY_CLIENT_ID", "client id of the user-assigned identity", ""),
    Setting("GROUNDWORK_PUBLIC_URL", "the address that clients use, for links", ""),
    Setting("GROUNDWORK_SEARCH", "https endpoint of Azure AI Search, or embedded:DIRECTORY"),
    Setting("GROUNDWORK_MODELS", "the catalogue of models, a file of the app", "models.azure.toml"),
    Setting("GROUNDWORK_MODEL_ENDPOINT", "base address of the model endpoint that the catalogue names"),
    Setting("GROUNDWORK_BOOTSTRAP_KEY_SHA256", "SHA-256 (hex) of the first administrator's API key", ""),
    Setting("GROUNDWORK_ENTRA_AUDIENCE", "application ids of this API whose access tokens are taken", ""),
    Setting("GROUNDWORK_ENTRA_TENANTS", "Entra tenants and ours: ENTRA-TENANT-ID=TENANT, …", ""),
    Setting("GROUNDWORK_ENTRA_AUTHORITY", "where Entra ID is", "https://login.microsoftonline.com"),
    Setting("GROUNDWORK_TRUSTED_INGRESS", "app-service, to trust App Service authentication", ""),
    Setting("GROUNDWORK_FAILED_SIGN_INS", "refused credentials a minute, of one source or key", "60"),
    Setting("GROUNDWORK_SIGNING_KEY", "what the secrets of webhooks are derived from", ""),
    Setting("GROUNDWORK_OUTGOING_NETWORKS", "networks that URLs may reach though they are private", ""),
    Setting("GROUNDWORK_MAX_DOCUMENT_BYTES", "largest document that is accepted, in bytes", "52428800"),
    Setting("GROUNDWORK_MAX_UNFINISHED_DOCUMENTS", "documents accepted and not finished, in all", "500000"),
    Setting("GROUNDWORK_PARSER_WORKERS", "processes that read documents", "2"),
    Setting("GROUNDWORK_SHARDS_IN_FLIGHT", "shards of one ingestion or batch that run at a time", "4"),
    Setting("GROUNDWORK_JOB_RETENTION_DAYS", "days that ended jobs and their results are kept", "30"),
    Setting("GROUNDWORK_HISTORY_RETENTION_DAYS", "days that finished orchestrations are kept", "7"),
    Setting("GROUNDWORK_CACHE_BYTES", "memory of a process for its caches, in bytes", "33554432"),
    Setting("GROUNDWORK_CACHE_SECONDS", "how long these are kept; 0 keeps none", "3600"),
    Setting("GROUNDWORK_SCREENING", "refuse attacks on the model, or only report them in the log", "refuse"),
    Setting("GROUNDWORK_CONTENT_SAFETY", "https endpoint of Azure AI Content Safety, as a second judge", ""),
    Setting("GROUNDWORK_LIMITS", "limits, name=value, unless a tenant has its own", LIMITS),
)


class ConfigurationError(Exception):
    """A setting is absent or malformed; the message names it and the form expected."""


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Where blobs, queues and tables live: a connection string, or three endpoints and an identity."""

    connection_string: str | None = field(default=None, repr=False)
    blob_endpoint: str | None = None
    queue_endpoint: str | None = None
    table_endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class EntraSettings:
    """Whose access tokens are taken; ``tenants`` gives our tenant for each Entra tenant's id."""

    authority: str
    audience: tuple[str, ...]
    tenants: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the app, checked. ``environment`` holds what the model catalogue may refer to."""

    storage: StorageSettings
    identity_client_id: str | None
    public_url: str | None
    search: str
    models_file: Path
    bootstrap_key_sha256: str | None = field(repr=False)
    entra: EntraSettings | None
    trusts_ingress: bool
    failed_sign_ins: int
    signing_key: str | None = field(repr=False)
    outgoing_networks: tuple[Network, ...]
    max_document_bytes: int
    max_unfinished_documents: int
    parser_workers: int
    shards_in_flight: int
    job_retention_days: int
    history_retention_days: int
    cache_bytes: int
    cache_seconds: int
    refuses_attacks: bool
    content_safety: str | None
    limits: Limits
    environment: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, environment: Mapping[str, str]) -> Settings:
        """Check ``environment`` and freeze it; raises `ConfigurationError` that names every fault."""
        reader = _Reader(environment)
        storage = StorageSettings(
            connection_string=reader.text("GroundworkStorage"),
            blob_endpoint=reader.url("GroundworkStorage__blobServiceUri"),
            queue_endpoint=reader.url("GroundworkStorage__queueServiceUri"),
            table_endpoint=reader.url("GroundworkStorage__tableServiceUri"),
        )
        endpoints = (storage.blob_endpoint, storage.queue_endpoint, storage.table_endpoint)
        if not storage.connection_string and not all(endpoints):
            reader.fault(
                "GroundworkStorage", "a connection string, or the three GroundworkStorage__*ServiceUri"
            )
        public_url = reader.url("GROUNDWORK_PUBLIC_URL")
        settings = cls(
            storage=storage,
            identity_client_id=reader.text("GROUNDWORK_IDENTITY_CLIENT_ID"),
            public_url=public_url.rstrip("/") if public_url else None,
            search=reader.matching(
                "GROUNDWORK_SEARCH", r"https?://.+|embedded:.+", "https://… or embedded:DIRECTORY"
            ),
            models_file=reader.file("GROUNDWORK_MODELS"),
            bootstrap_key_sha256=reader.optional_matching(
                "GROUNDWORK_BOOTSTRAP_KEY_SHA256", r"[0-9a-f]{64}", "64 hexadecimal digits"
            ),
            entra=_entra(reader),
            trusts_ingress=_trusts_ingress(reader),
            failed_sign_ins=reader.integer("GROUNDWORK_FAILED_SIGN_INS", 1, 1_000_000),
            signing_key=reader.optional_matching(
                "GROUNDWORK_SIGNING_KEY", r"\S{32,}", "32 characters or more, without white space"
            ),
            outgoing_networks=_networks(reader),
            max_document_bytes=reader.integer("GROUNDWORK_MAX_DOCUMENT_BYTES", 1, 1 << 40),
            max_unfinished_documents=reader.integer("GROUNDWORK_MAX_UNFINISHED_DOCUMENTS", 1, 1 << 40),
            parser_workers=reader.integer("GROUNDWORK_PARSER_WORKERS", 1, 64),
            shards_in_flight=reader.integer("GROUNDWORK_SHARDS_IN_FLIGHT", 1, 64),
            job_retention_days=reader.integer("GROUNDWORK_JOB_RETENTION_DAYS", 1, 3650),
            history_retention_days=reader.integer("GROUNDWORK_HISTORY_RETENTION_DAYS", 1, 3650),
            cache_bytes=reader.integer("GROUNDWORK_CACHE_BYTES", 0, 1 << 33),
            cache_seconds=reader.integer("GROUNDWORK_CACHE_SECONDS", 0, 30 * 86_400),
            refuses_attacks=reader.matching("GROUNDWORK_SCREENING", r"refuse|report", "refuse or report")
            == "refuse",
            content_safety=reader.url("GROUNDWORK_CONTENT_SAFETY"),
            limits=reader.limits("GROUNDWORK_LIMITS"),
            environment=dict(environment),
        )
        reader.raise_faults()
        return settings


def _entra(reader: _Reader) -> EntraSettings | None:
    audience = reader.list("GROUNDWORK_ENTRA_AUDIENCE")
    form = "ENTRA-TENANT-ID=TENANT, with a comma between two"
    pairs = [pair.partition("=") for pair in reader.list("GROUNDWORK_ENTRA_TENANTS")]
    tenants = {entra.strip().lower(): tenant.strip() for entra, _, tenant in pairs}
    if not all(_GUID.fullmatch(entra) and _TENANT.fullmatch(tenant) for entra, tenant in tenants.items()):
        reader.fault("GROUNDWORK_ENTRA_TENANTS", form)
    authority = reader.url("GROUNDWORK_ENTRA_AUTHORITY") or ""
    if not authority.startswith("https://") and not _is_loopback(authority.partition("://")[2]):
        reader.fault("GROUNDWORK_ENTRA_AUTHORITY", "an https address")
    if bool(audience) != bool(tenants):
        reader.fault("GROUNDWORK_ENTRA_AUDIENCE", "to be set together with GROUNDWORK_ENTRA_TENANTS")
    return EntraSettings(authority.rstrip("/"), audience, tenants) if audience and tenants else None


def _trusts_ingress(reader: _Reader) -> bool:
    """Whether the headers of App Service authentication are believed.

    Without it in front, every client could write them itself. The platform says whether it is there; a host
    that only its own machine reaches may do without, for trials.
    """
    trusted = reader.optional_matching("GROUNDWORK_TRUSTED_INGRESS", "app-service", "app-service, or nothing")
    if trusted is None:
        return False
    if not reader.text("GROUNDWORK_ENTRA_TENANTS"):
        reader.fault("GROUNDWORK_ENTRA_TENANTS", "to be set, since App Service authentication is trusted")
    on = (reader.environment.get("WEBSITE_AUTH_ENABLED") or "").lower() == "true"
    if not on and not _is_loopback(reader.environment.get("WEBSITE_HOSTNAME") or ""):
        reader.fault(
            "GROUNDWORK_TRUSTED_INGRESS",
            "nothing, as App Service authentication is off (WEBSITE_AUTH_ENABLED) and others reach this host",
        )
    return True


def _networks(reader: _Reader) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part) for part in reader.list("GROUNDWORK_OUTGOING_NETWORKS"))
    except ValueError:
        reader.fault("GROUNDWORK_OUTGOING_NETWORKS", "networks as 10.1.0.0/16, with a comma between two")
        return ()


def _is_loopback(address: str) -> bool:
    """Whether ``host[:port][/path]`` is this machine alone."""
    return re.fullmatch(r"(127(\.\d{1,3}){3}|localhost|\[::1\])(:\d+)?(/.*)?", address) is not None


class _Reader:
    """Reads settings and gathers the faults, so that the user mends all of them at once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._defaults = {setting.name: setting.default for setting in SETTINGS}
        self._faults: list[str] = []

    def text(self, name: str) -> str | None:
        return self.environment.get(name) or self._defaults[name] or None

    def list(self, name: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in (self.text(name) or "").split(",") if part.strip())

    def url(self, name: str) -> str | None:
        return self.optional_matching(name, r"https?://[^\s]+", "an http or https address")

    def optional_matching(self, name: str, pattern: str, form: str) -> str | None:
        value = self.text(name)
        if value is not None and not re.fullmatch(pattern, value):
            self.fault(name, form)
        return value

    def matching(self, name: str, pattern: str, form: str) -> str:
        value = self.optional_matching(name, pattern, form)
        if value is None:
            self.fault(name, form)
        return value or ""

    def integer(self, name: str, least: int, most: int) -> int:
        value = self.text(name) or ""
        digits = value.isascii() and value.isdigit() and len(value) <= len(str(most))
        if not digits or not least <= int(value) <= most:
            self.fault(name, f"a whole number from {least} to {most}")
            return least
        return int(value)

    def limits(self, name: str) -> Limits:
        try:
            return parse_limits(self.text(name) or "")
        except ValueError as error:
            self.fault(name, f"name=value, name=value; {error}")
            return UNLIMITED

    def file(self, name: str) -> Path:
        path = APP_ROOT / (self.text(name) or "")
        if not path.is_file():
            self.fault(name, "the name of an existing file")
        return path

    def fault(self, name: str, form: str) -> None:
        self._faults.append(f"{name}: expected {form}")

    def raise_faults(self) -> None:
        if self._faults:
            raise ConfigurationError("Settings are missing or malformed. " + "; ".join(self._faults))


def refuse_unguarded_ingress(environment: Mapping[str, str] = os.environ) -> None:
    """Raise `ConfigurationError` where an ingress is trusted that is not there: the app must not start."""
    if environment.get("GROUNDWORK_TRUSTED_INGRESS"):
        reader = _Reader(environment)
        _trusts_ingress(reader)
        reader.raise_faults()


@cache
def settings() -> Settings:
    """The settings of this process, parsed from its environment at the first call."""
    return Settings.parse(os.environ)
