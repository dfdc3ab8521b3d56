"""What a caller of the engine may be told.

DurableError
├── DatabaseInUse       another host process holds the database
├── UnknownFunction     400  no such orchestrator, activity or entity
├── InvalidOperation    400  the instance is not in a state that allows this
├── InstanceNotFound    404
├── InstanceRunning     409  an instance with this id is running
└── InstanceFinished    410  the instance has completed, failed or was terminated
"""

from __future__ import annotations

from typing import ClassVar


class DurableError(Exception):
    """An error whose message is written for the caller; ``status`` is the HTTP status that carries it."""

    status: ClassVar[int] = 500


class DatabaseInUse(DurableError):
    pass


class UnknownFunction(DurableError):
    status = 400


class InvalidOperation(DurableError):
    status = 400


class InstanceNotFound(DurableError):
    status = 404

    def __init__(self, instance_id: str) -> None:
        super().__init__(f"No instance with ID '{instance_id}' found.")


class InstanceRunning(DurableError):
    status = 409

    def __init__(self, instance_id: str) -> None:
        super().__init__(
            f"An Orchestration instance with the ID '{instance_id}' already exists and is running."
        )


class InstanceFinished(DurableError):
    status = 410

    def __init__(self, instance_id: str, state: str) -> None:
        super().__init__(f"The instance '{instance_id}' has finished: {state}.")


class NonDeterministic(Exception):
    """The actions of a replay do not match the instance's history; the message names event and action."""
