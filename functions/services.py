"""The one place where the parts of the app are put together: once in a process, at first use.

Nothing here is built while the app is indexed; a process that only answers probes never opens the index.
"""

from __future__ import annotations

import time
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

from shared.config import Settings, settings
from shared.telemetry import log_model_call

if TYPE_CHECKING:
    from shared.audit import Audit
    from shared.authentication import Authentication
    from shared.files import Files
    from shared.followers import Followers
    from shared.inferencing import CallRecord, Catalogue, DeploymentCredentials, Gateway
    from shared.inferencing.admission import Admission
    from shared.inferencing.batches import Batches
    from shared.inferencing.caching import BoundedCache
    from shared.inferencing.ledger import UsageLedger
    from shared.intake import Intake
    from shared.intelligence.answers import Answers
    from shared.intelligence.screening import Screen
    from shared.jobs import Jobs
    from shared.keys import Keys
    from shared.knowledge.collections import Collections
    from shared.knowledge.content import ContentStore
    from shared.knowledge.deletion import Deletion
    from shared.knowledge.documents import Documents
    from shared.knowledge.erasure import Erasure
    from shared.knowledge.golden import GoldenSets
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.ingestion import Ingestion
    from shared.knowledge.parsing import ParserPool
    from shared.knowledge.reconciliation import Reconciliation
    from shared.knowledge.reindexing import Reindexing
    from shared.knowledge.retrieval import Retrieval
    from shared.knowledge.upkeep import LayoutUpkeep
    from shared.limits import TenantLimits
    from shared.outgoing import Outgoing
    from shared.quotas import Quotas
    from shared.storage import Storage
    from shared.webhooks import Webhooks


# Of the memory for caches: an answer holds its passages, a vector is a kilobyte or six.
ANSWERS_SHARE = 0.4
PASSAGES_SHARE = 0.3
VECTORS_SHARE = 0.3


class Caches:
    """The caches of this process, which share ``bytes`` of memory and keep an entry for ``seconds``."""

    def __init__(self, bytes: int, seconds: float) -> None:
        self.seconds = seconds
        self._bytes = bytes
        self._caches: list[BoundedCache[Any]] = []

    def new(self, share: float) -> BoundedCache[Any]:
        """A cache with a share of the memory."""
        from shared.inferencing.caching import BoundedCache

        self._caches.append(BoundedCache(int(self._bytes * share), self.seconds))
        return self._caches[-1]

    def clear(self) -> None:
        """Forget everything."""
        for each in self._caches:
            each.clear()


class Services:
    """The app's parts, each made when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def credential(self) -> Any:
        """An asynchronous token credential of the app's own identity."""
        from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

        client_id = self.settings.identity_client_id
        return ManagedIdentityCredential(client_id=client_id) if client_id else DefaultAzureCredential()

    @cached_property
    def storage(self) -> Storage:
        from shared.storage import Storage

        return Storage(self.settings.storage, self.credential)

    @cached_property
    def outgoing(self) -> Outgoing:
        from shared.outgoing import Outgoing

        return Outgoing(self.settings.outgoing_networks)

    @cached_property
    def webhooks(self) -> Webhooks:
        from shared.webhooks import Webhooks

        return Webhooks(
            self.storage, self.outgoing, self.settings.signing_key, self.settings.public_url or ""
        )

    @cached_property
    def keys(self) -> Keys:
        from shared.keys import Keys

        return Keys(self.storage, self.settings.bootstrap_key_sha256)

    @cached_property
    def audit(self) -> Audit:
        from shared.audit import Audit

        return Audit(self.storage)

    @cached_property
    def authentication(self) -> Authentication:
        from shared.authentication import Authentication, FailedAttempts
        from shared.entra import AccessTokens

        entra = self.settings.entra
        return Authentication(
            keys=self.keys,
            tokens=AccessTokens(entra) if entra else None,
            audit=self.audit,
            attempts=FailedAttempts(self.settings.failed_sign_ins),
            trusted_ingress=entra if self.settings.trusts_ingress else None,
        )

    @cached_property
    def quotas(self) -> Quotas:
        from shared.quotas import Quotas

        bound = self.settings.max_unfinished_documents
        return Quotas(self.storage, self.limits, max_unfinished_documents=bound)

    @cached_property
    def jobs(self) -> Jobs:
        from shared.jobs import Jobs

        return Jobs(self.storage, self.webhooks.expect_end, self.quotas)

    @cached_property
    def intake(self) -> Intake:
        from shared.intake import Intake

        return Intake(self.jobs.find)

    @cached_property
    def followers(self) -> Followers:
        from shared.followers import Followers

        return Followers()

    @cached_property
    def files(self) -> Files:
        from shared.files import Files

        return Files(self.storage)

    @cached_property
    def batches(self) -> Batches:
        from functions.openai_lines import LineAnswers
        from shared.inferencing.batch_api import BatchApi
        from shared.inferencing.batches import Batches
        from shared.inferencing.wire import HttpWire

        return Batches(
            storage=self.storage,
            jobs=self.jobs,
            files=self.files,
            answer=LineAnswers(),
            gateway=self.gateway,
            apis=partial(BatchApi, HttpWire(), self.model_credentials),
            lanes=self.settings.shards_in_flight,
        )

    @cached_property
    def collections(self) -> Collections:
        from shared.knowledge.collections import Collections

        return Collections(self.storage)

    @cached_property
    def documents(self) -> Documents:
        from shared.knowledge.documents import Documents

        return Documents(self.storage, self.quotas)

    @cached_property
    def content(self) -> ContentStore:
        from shared.knowledge.content import ContentStore

        return ContentStore(self.storage)

    @cached_property
    def catalogue(self) -> Catalogue:
        from shared.inferencing import parse_catalogue

        return parse_catalogue(self.settings.models_file.read_text(), self.settings.environment)

    @cached_property
    def model_credentials(self) -> DeploymentCredentials:
        from shared.inferencing import DeploymentCredentials

        identity = self.credential() if self.settings.identity_client_id else None
        return DeploymentCredentials(self.settings.environment, identity=identity)

    @cached_property
    def gateway(self) -> Gateway:
        from shared.inferencing import Gateway

        return Gateway(
            self.catalogue,
            credentials=self.model_credentials,
            recorder=self._record_call,
            admission=self.admission,
        )

    def _record_call(self, record: CallRecord) -> None:
        log_model_call(record)
        self.usage.record(record)

    @cached_property
    def admission(self) -> Admission:
        from shared.inferencing.admission import Admission
        from shared.inferencing.budgets import JobBudgets
        from shared.inferencing.rates import CallerRates

        return Admission(self.limits.of, CallerRates(time.monotonic), JobBudgets(self.storage))

    @cached_property
    def usage(self) -> UsageLedger:
        from shared.inferencing.ledger import UsageLedger

        return UsageLedger(self.storage)

    @cached_property
    def limits(self) -> TenantLimits:
        from shared.limits import TenantLimits

        return TenantLimits(self.storage, self.settings.limits)

    @cached_property
    def indexes(self) -> Indexes:
        from shared.knowledge.indexes import Indexes

        return Indexes(self.settings.search, self.catalogue, self.credential)

    @cached_property
    def ingestion(self) -> Ingestion:
        from shared.knowledge.ingestion import Ingestion

        return Ingestion(
            storage=self.storage,
            jobs=self.jobs,
            collections=self.collections,
            documents=self.documents,
            content=self.content,
            indexes=self.indexes,
            gateway=self.gateway,
            parsers=self.parsers,
            outgoing=self.outgoing,
            max_document_bytes=self.settings.max_document_bytes,
            shards_in_flight=self.settings.shards_in_flight,
        )

    @cached_property
    def parsers(self) -> ParserPool:
        from shared.knowledge.parsing import ParserPool

        return ParserPool(workers=self.settings.parser_workers)

    @cached_property
    def golden(self) -> GoldenSets:
        from shared.knowledge.golden import GoldenSets

        return GoldenSets(self.storage)

    @cached_property
    def reindexing(self) -> Reindexing:
        from shared.knowledge.reindexing import Reindexing

        return Reindexing(
            jobs=self.jobs,
            collections=self.collections,
            documents=self.documents,
            content=self.content,
            golden=self.golden,
            indexes=self.indexes,
            gateway=self.gateway,
            parsers=self.parsers,
            retrieval=self.retrieval,
            shards=self.ingestion.shards,
            assignments=self.ingestion.assignments,
            shards_in_flight=self.settings.shards_in_flight,
        )

    @cached_property
    def reconciliation(self) -> Reconciliation:
        from shared.knowledge.reconciliation import Reconciliation

        return Reconciliation(
            acceptance=self.ingestion.acceptance,
            storage=self.storage,
            jobs=self.jobs,
            collections=self.collections,
            documents=self.documents,
            content=self.content,
            indexes=self.indexes,
        )

    @cached_property
    def erasure(self) -> Erasure:
        from shared.inferencing.batches.records import BatchRecords
        from shared.knowledge.erasure import Erasure

        return Erasure(
            storage=self.storage,
            jobs=self.jobs,
            collections=self.collections,
            documents=self.documents,
            content=self.content,
            indexes=self.indexes,
            files=self.files,
            keys=self.keys,
            ledger=self.usage,
            batches=BatchRecords(self.storage),
            webhooks=self.webhooks,
            caches=self.caches,
        )

    @cached_property
    def layout_upkeep(self) -> LayoutUpkeep:
        from shared.knowledge.upkeep import LayoutUpkeep

        return LayoutUpkeep(jobs=self.jobs, collections=self.collections, indexes=self.indexes)

    @cached_property
    def deletion(self) -> Deletion:
        from shared.knowledge.deletion import Deletion

        return Deletion(
            jobs=self.jobs,
            collections=self.collections,
            documents=self.documents,
            content=self.content,
            golden=self.golden,
            indexes=self.indexes,
        )

    @cached_property
    def retrieval(self) -> Retrieval:
        from shared.inferencing.caching import EmbeddingCache
        from shared.knowledge.retrieval import Retrieval

        return Retrieval(
            collections=self.collections,
            documents=self.documents,
            indexes=self.indexes,
            gateway=self.gateway,
            found=self.caches.new(PASSAGES_SHARE),
            vectors=EmbeddingCache(self.caches.new(VECTORS_SHARE), self.usage.count),
            count=self.usage.count,
        )

    @cached_property
    def answers(self) -> Answers:
        from shared.intelligence.answer_cache import AnswerCache
        from shared.intelligence.answers import Answers

        return Answers(
            retrieval=self.retrieval,
            gateway=self.gateway,
            screen=self.screen,
            cache=AnswerCache(self.caches.new(ANSWERS_SHARE)),
            count=self.usage.count,
        )

    @cached_property
    def screen(self) -> Screen:
        from shared.intelligence.screening import Screen
        from shared.intelligence.screening.shields import PromptShields

        endpoint = self.settings.content_safety
        shields = PromptShields(endpoint, self.model_credentials.of_identity) if endpoint else None
        return Screen(shields, refuses=self.settings.refuses_attacks)

    @cached_property
    def caches(self) -> Caches:
        return Caches(self.settings.cache_bytes, self.settings.cache_seconds)


@cache
def services() -> Services:
    """The services of this process."""
    return Services(settings())
