"""The model gateway: deployments, routing, failover; chat completions and embeddings."""

from .calls import CallContext, CallRecord, Completion, Embedded, Recorder, Usage
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
    "Kind",
    "Model",
    "Recorder",
    "Usage",
    "parse_catalogue",
]
