"""Which orchestrators, activities and entities the app has. Names are compared without case, as in Azure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol


class AppFunction(Protocol):
    """One function of the app, as the host's loader lists it."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def trigger(self) -> Any: ...
    @property
    def user_function(self) -> Callable[..., Any]: ...
    @property
    def is_async(self) -> bool: ...


# Trigger type, and the trigger's attribute that may give the function another name to be called by.
KINDS = {
    "orchestrator": ("orchestrationTrigger", "orchestration"),
    "activity": ("activityTrigger", "activity"),
    "entity": ("entityTrigger", "entity_name"),
}


class Functions:
    def __init__(self, functions: Iterable[AppFunction]) -> None:
        listed = list(functions)
        self._by_kind: dict[str, dict[str, AppFunction]] = {}
        for kind, (trigger, attribute) in KINDS.items():
            self._by_kind[kind] = {
                (getattr(f.trigger, attribute, None) or f.name).lower(): f
                for f in listed
                if f.kind == trigger
            }

    def orchestrator(self, name: str) -> AppFunction | None:
        return self._by_kind["orchestrator"].get(name.lower())

    def activity(self, name: str) -> AppFunction | None:
        return self._by_kind["activity"].get(name.lower())

    def entity(self, name: str) -> AppFunction | None:
        return self._by_kind["entity"].get(name.lower())

    def missing(self, name: str, kind: str) -> str:
        """The sentence that says a function is not there, and which are."""
        known = ", ".join(f"'{f.name}'" for f in self._by_kind[kind].values()) or "none"
        return (
            f"The function '{name}' doesn't exist, is disabled, or is not an {kind} function. "
            f"The known {kind} functions are: {known}."
        )
