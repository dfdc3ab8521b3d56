"""The Functions app: it registers the blueprints, and nothing else; it does not start where anyone could
claim to be anyone.
"""

import azure.durable_functions as df
import azure.functions as func

from functions import (
    batches,
    chat,
    collections,
    console,
    erasures,
    events,
    files,
    health,
    identity,
    ingestion,
    jobs,
    later,
    maintenance,
    openai_responses,
    openai_surface,
    quotas,
    reindexing,
    search,
    usage,
    warmup,
    webhooks,
)
from shared.config import refuse_unguarded_ingress

refuse_unguarded_ingress()
app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)

for module in (
    health,
    identity,
    quotas,
    collections,
    ingestion,
    reindexing,
    events,
    jobs,
    maintenance,
    erasures,
    webhooks,
    later,
    search,
    chat,
    openai_surface,
    openai_responses,
    files,
    usage,
    batches,
    console,
    warmup,
):
    app.register_functions(module.blueprint)
