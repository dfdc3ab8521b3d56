"""An embedded engine for Durable Functions: drives the unmodified Python SDK, keeps its state in SQLite."""

from .engine import Engine
from .errors import (
    DatabaseInUse,
    DurableError,
    InstanceFinished,
    InstanceNotFound,
    InstanceRunning,
    InvalidOperation,
    UnknownFunction,
)
from .invocation import InvokeActivity
from .options import DurableOptions
from .routes import durable_routes
from .store import Instance, Query

__all__ = [
    "DatabaseInUse",
    "DurableError",
    "DurableOptions",
    "Engine",
    "Instance",
    "InstanceFinished",
    "InstanceNotFound",
    "InstanceRunning",
    "InvalidOperation",
    "InvokeActivity",
    "Query",
    "UnknownFunction",
    "durable_routes",
]
