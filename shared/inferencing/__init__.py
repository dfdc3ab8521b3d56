"""The model gateway: deployments, routing, failover; chat completions, embeddings and re-ranking."""

from .calls import CallContext, CallRecord, Completion, Embedded, JobAccount, Recorder, Reranked, Usage
from .catalogue import Catalogue, CatalogueError, Deployment, Kind, Model, parse_catalogue
from .credentials import DeploymentCredentials
from .gateway import Gateway

__all__ = [
    "CallContext",
    "CallRecord",
    "Catalogue",
    "CatalogueError",
    "Completion",
    "Deployment",
    "DeploymentCredentials",
    "Embedded",
    "Gateway",
    "JobAccount",
    "Kind",
    "Model",
    "Recorder",
    "Reranked",
    "Usage",
    "parse_catalogue",
]
