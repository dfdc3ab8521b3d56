"""The catalogue of models: which logical model is served by which deployments, under which limits.

`models.toml` is the source; `docs/gateway.md` explains every key. A catalogue is parsed once, at start,
and is immutable: a mistake in it is reported with the path of the key and stops the start.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

from .tokens import check_spec

REFERENCE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.IGNORECASE)


class CatalogueError(ValueError):
    """`models.toml` is wrong; the message begins with the path of the key."""


class Kind(StrEnum):
    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANK = "rerank"


class Capability(StrEnum):
    """What not every deployment of a model can do, and a chat may need."""

    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"
    IMAGES = "images"
    AUDIO = "audio"


class Api(StrEnum):
    """How a deployment is addressed. ``openai``: the endpoint is the base URL, with its ``/v1``."""

    OPENAI = "openai"
    AZURE_V1 = "azure-v1"
    AZURE_DEPLOYMENTS = "azure-deployments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    name: str
    endpoint: str
    deployment: str
    api: Api
    api_version: str | None
    version: str
    data_zone: str
    priority: int
    weight: float
    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_in_flight: int
    capabilities: frozenset[Capability]
    price_input_per_million: float
    price_cached_input_per_million: float
    price_output_per_million: float
    key_setting: str | None
    batch: bool = False

    def url(self, operation: str) -> str:
        """The address of ``operation``, such as ``chat/completions``."""
        if self.api is Api.AZURE_DEPLOYMENTS:
            root = f"{self.endpoint}/openai/deployments/{self.deployment}"
            return f"{root}/{operation}?api-version={self.api_version}"
        root = f"{self.endpoint}/openai/v1" if self.api is Api.AZURE_V1 else self.endpoint
        return f"{root}/{operation}"

    @property
    def listing_url(self) -> str:
        """An address that answers cheaply wherever the service is up: its list of models."""
        return self.service_url("models")

    def service_url(self, path: str) -> str:
        """The address of what belongs to the service and to no deployment of it, such as ``files``."""
        if self.api is Api.AZURE_DEPLOYMENTS:
            separator = "&" if "?" in path else "?"
            return f"{self.endpoint}/openai/{path}{separator}api-version={self.api_version}"
        return self.url(path)

    def cost(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
        """Estimated price of a call, in the currency of the catalogue."""
        fresh = max(0, prompt_tokens - cached_tokens) * self.price_input_per_million
        cached = cached_tokens * self.price_cached_input_per_million
        return (fresh + cached + completion_tokens * self.price_output_per_million) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The longest waits of one try, and of the whole call. What is learned only ever shortens them."""

    # A TCP and TLS handshake inside one continent takes well under 0.5 s; 3 s allows one lost SYN (RFC 6298).
    connect_seconds: float = 3.0
    # A long prompt on a loaded reasoning model: tens of seconds until it begins.
    first_token_seconds: float = 30.0
    # A whole answer that is not streamed, up to the output limit of common models.
    answer_seconds: float = 120.0
    # Services send keep-alives or tokens far more often; a filter may hold back a paragraph.
    gap_seconds: float = 15.0
    # Azure ends a buffered HTTP response after 230 s ("Azure Functions scale and hosting"); stay below.
    total_seconds: float = 220.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A logical model: the name the app asks for, and the deployments that may answer.

    ``batch_deployments`` take whole batches and no call.
    """

    name: str
    kind: Kind
    tokenizer: str | None
    context_tokens: int
    max_output_tokens: int
    max_prompt_tokens: int | None
    can_synthesise: bool
    dimensions: int | None
    max_input_tokens: int | None
    batch_max_inputs: int
    batch_max_tokens: int | None
    index: str | None
    hedge: bool
    timeouts: Timeouts
    deployments: tuple[Deployment, ...]
    batch_deployments: tuple[Deployment, ...] = ()

    @property
    def version(self) -> str:
        return self.deployments[0].version

    def version_in(self, zone: str | None) -> str:
        """The version that answers calls of a data zone; None is the first deployment's."""
        return next((each.version for each in self.deployments if each.data_zone == zone), self.version)

    def batch_deployment(self, zone: str | None = None) -> Deployment | None:
        """Where a batch of a data zone's calls is handed in; None is the first deployment's zone."""
        zone = zone or self.deployments[0].data_zone
        fitting = [each for each in self.batch_deployments if each.data_zone == zone]
        return min(fitting, key=lambda each: each.priority, default=None)

    def cost_at_most(self, prompt_tokens: int, completion_tokens: int | None) -> float:
        """What a call may cost, whichever deployment answers; an answer without a limit is a full one."""
        completion = self.max_output_tokens if completion_tokens is None else completion_tokens
        return max(member.cost(prompt_tokens, 0, completion) for member in self.deployments)


@dataclass(frozen=True, slots=True)
class Catalogue:
    models: Mapping[str, Model]

    def reranker(self, version: str | None = None) -> Model | None:
        """The first model that re-ranks, of this version where one is given; None where there is none."""
        rerankers = (model for model in self.models.values() if model.kind is Kind.RERANK)
        return next((model for model in rerankers if version in (None, model.version)), None)


def parse_catalogue(text: str, settings: Mapping[str, str]) -> Catalogue:
    """The catalogue in the TOML ``text``, with ``${NAME}`` in endpoints taken from ``settings``.

    Raises ``CatalogueError`` with the path of the offending key.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"models.toml: not valid TOML: {error}") from None
    root = _Table(document, "models.toml")
    models = {}
    for name, table in root.table("models").tables():
        models[name] = _model(name, table, settings)
    root.end()
    if not models:
        raise CatalogueError("models: there is no model")
    return Catalogue(models)


def _model(name: str, table: _Table, settings: Mapping[str, str]) -> Model:
    table.check(NAME.fullmatch(name) is not None, None, "a model's name is letters, digits, '.', '_', '-'")
    kind = Kind(table.choice("kind", tuple(Kind)))
    embedding, chat = kind is Kind.EMBEDDING, kind is Kind.CHAT
    every = tuple(_deployment(entry, settings) for entry in table.array("deployments"))
    deployments = tuple(each for each in every if not each.batch)
    table.check(bool(deployments), "deployments", "at least one deployment that takes calls is needed")
    table.check(kind is not Kind.RERANK or deployments == every, "deployments", "no batch API re-ranks")
    _check_interchangeable(table, every)
    model = Model(
        name=name,
        kind=kind,
        tokenizer=_tokenizer(table),
        context_tokens=table.whole("context_tokens", None if chat else 0),
        max_output_tokens=table.whole("max_output_tokens", None if chat else 0),
        max_prompt_tokens=table.whole("max_prompt_tokens", 0) or None if chat else None,
        can_synthesise=table.flag("can_synthesise", True),
        dimensions=table.whole("dimensions") if embedding else None,
        max_input_tokens=table.whole("max_input_tokens") if embedding else None,
        # OpenAI and Azure take at most 2048 inputs a request ("Embeddings" in their API references).
        batch_max_inputs=table.whole("batch_max_inputs", 2048) if embedding else 1,
        batch_max_tokens=table.whole("batch_max_tokens", 0) or None if embedding else None,
        index=table.text("index", name) if embedding else None,
        hedge=table.flag("hedge", False) if embedding else False,
        timeouts=_timeouts(table.table("timeouts")),
        deployments=deployments,
        batch_deployments=tuple(each for each in every if each.batch),
    )
    table.end()
    return model


def _tokenizer(table: _Table) -> str | None:
    spec = table.text("tokenizer", None)
    try:
        if spec is not None:
            check_spec(spec)
    except ValueError as error:
        table.check(False, "tokenizer", str(error))
    return spec


def _check_interchangeable(table: _Table, deployments: tuple[Deployment, ...]) -> None:
    names = [deployment.name for deployment in deployments]
    table.check(len(set(names)) == len(names), "deployments", "two deployments have the same name")
    by_zone = sorted(deployments, key=lambda deployment: deployment.data_zone)
    for zone, members in groupby(by_zone, key=lambda deployment: deployment.data_zone):
        versions = {member.version for member in members}
        table.check(
            len(versions) == 1,
            "deployments",
            f"deployments of data zone {zone!r} must have one version, not {', '.join(sorted(versions))}: "
            "failover never changes the version",
        )


def _deployment(table: _Table, settings: Mapping[str, str]) -> Deployment:
    api = Api(table.choice("api", tuple(Api)))
    price = table.number("price_input_per_million", 0.0, least=0.0)
    name = table.text("name")
    deployment = Deployment(
        name=name,
        endpoint=_endpoint(table, api, settings),
        deployment=table.text("deployment"),
        api=api,
        api_version=table.text("api_version") if api is Api.AZURE_DEPLOYMENTS else None,
        version=table.text("version"),
        data_zone=table.text("data_zone"),
        priority=table.whole("priority", 0, least=0),
        weight=table.number("weight", 1.0),
        requests_per_minute=table.number("requests_per_minute", 0.0, least=0.0) or None,
        tokens_per_minute=table.number("tokens_per_minute", 0.0, least=0.0) or None,
        # More than one worker process sends at a time in practice; the adaptive limit finds the rest.
        max_in_flight=table.whole("max_in_flight", 256),
        capabilities=frozenset(map(Capability, table.choices("capabilities", tuple(Capability)))),
        price_input_per_million=price,
        price_cached_input_per_million=table.number("price_cached_input_per_million", price, least=0.0),
        price_output_per_million=table.number("price_output_per_million", 0.0, least=0.0),
        key_setting=table.text("key_setting", None),
        batch=table.flag("batch", False),
    )
    table.check(NAME.fullmatch(name) is not None, "name", "letters, digits, '.', '_' and '-' only")
    table.end()
    return deployment


def _endpoint(table: _Table, api: Api, settings: Mapping[str, str]) -> str:
    def expand(match: re.Match[str]) -> str:
        value = settings.get(match[1])
        table.check(bool(value), "endpoint", f"the setting {match[1]} is not set")
        return str(value)

    endpoint = REFERENCE.sub(expand, table.text("endpoint")).rstrip("/")
    parts = urlsplit(endpoint)
    table.check(
        parts.scheme in ("http", "https") and bool(parts.netloc), "endpoint", "expected an http(s) URL"
    )
    table.check("@" not in parts.netloc, "endpoint", "a URL holds no credentials; use key_setting")
    return endpoint.removesuffix("/openai/v1") if api is Api.AZURE_V1 else endpoint


def _timeouts(table: _Table) -> Timeouts:
    default = Timeouts()
    timeouts = Timeouts(
        connect_seconds=table.number("connect_seconds", default.connect_seconds),
        first_token_seconds=table.number("first_token_seconds", default.first_token_seconds),
        answer_seconds=table.number("answer_seconds", default.answer_seconds),
        gap_seconds=table.number("gap_seconds", default.gap_seconds),
        total_seconds=table.number("total_seconds", default.total_seconds),
    )
    table.end()
    return timeouts


_REQUIRED: Any = object()


class _Table:
    """A TOML table that knows its path, gives typed values, and complains of keys nobody asked for."""

    def __init__(self, values: Any, path: str) -> None:
        if not isinstance(values, dict):
            raise CatalogueError(f"{path}: expected a table")
        self._values = dict(values)
        self._path = path

    def check(self, holds: bool, key: str | None, complaint: str) -> None:
        if not holds:
            raise CatalogueError(f"{self._at(key)}: {complaint}")

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self._take(key, default)
        self.check(value is default or (isinstance(value, str) and value != ""), key, "expected a text")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self._take(key, _REQUIRED)
        self.check(value in choices, key, f"expected one of {', '.join(choices)}")
        return value

    def choices(self, key: str, choices: tuple[str, ...]) -> list[str]:
        """Some of ``choices``; all of them where the key is not there."""
        value = self._take(key, list(choices))
        valid = isinstance(value, list) and all(entry in choices for entry in value)
        self.check(valid, key, f"expected a list of {', '.join(choices)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key, default)
        self.check(isinstance(value, bool), key, "expected true or false")
        return value

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self._take(key, _REQUIRED if default is None else default)
        valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
        self.check(value is default or valid, key, f"expected a whole number of at least {least}")
        return value

    def number(self, key: str, default: float, *, least: float | None = None) -> float:
        value = self._take(key, default)
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        self.check(valid and value < float("inf"), key, "expected a number")
        bound = "more than 0" if least is None else f"at least {least:g}"
        self.check(value > 0 if least is None else value >= least, key, f"expected a number of {bound}")
        return float(value)

    def table(self, key: str) -> _Table:
        return _Table(self._take(key, {}), self._at(key))

    def tables(self) -> list[tuple[str, _Table]]:
        names = list(self._values)
        return [(name, self.table(name)) for name in names]

    def array(self, key: str) -> list[_Table]:
        value = self._take(key, [])
        self.check(isinstance(value, list), key, f"expected [[{self._at(key)}]]")
        return [_Table(entry, f"{self._at(key)}[{index}]") for index, entry in enumerate(value)]

    def end(self) -> None:
        """Complain of the first key that was not taken: a misspelt limit must not be silently none."""
        for key in self._values:
            raise CatalogueError(f"{self._at(key)}: there is no such key")

    def _take(self, key: str, default: Any) -> Any:
        if key not in self._values and default is _REQUIRED:
            raise CatalogueError(f"{self._at(key)}: missing")
        return self._values.pop(key, default)

    def _at(self, key: str | None) -> str:
        prefix = "" if self._path == "models.toml" else f"{self._path}."
        return self._path if key is None else f"{prefix}{key}"
