"""The model gateway: deployments, routing, failover; chat completions, embeddings and re-ranking.

A name's module is imported when the name is asked for: a parser process counts tokens and needs no gateway.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "calls": "CallContext CallRecord Completion Embedded JobAccount Recorder Reranked Usage",
    "catalogue": "Catalogue CatalogueError Deployment Kind Model parse_catalogue",
    "credentials": "DeploymentCredentials",
    "gateway": "Gateway",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
