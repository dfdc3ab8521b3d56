"""What one call is charged before it is sent, and what is recorded of it, whichever way it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .admission import Admitted
from .calls import CallContext, CallRecord, Recorder, Usage
from .catalogue import Model
from .dispatch import Opened

log = logging.getLogger("groundwork.inferencing")


class Account:
    """The account of one call: filled in while it runs, settled once."""

    def __init__(
        self, model: Model, call: CallContext, clock: Callable[[], float], recorder: Recorder
    ) -> None:
        self._model = model
        self._call = call
        self._clock = clock
        self._recorder = recorder
        self._started = clock()
        self.admitted: Admitted | None = None
        self.opened: Opened | None = None
        self.tries: list[str] = []
        self.begun_at: float | None = None
        self.longest_gap = 0.0
        self.outcome = "cancelled"
        self.usage = Usage()

    def settle(self) -> None:
        """Correct the charge, and hand the record of the call to the recorder."""
        deployment = self.opened.lease.deployment if self.opened else None
        usage = self.usage
        prices = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        cost = deployment.cost(*prices) if deployment else 0.0
        record = CallRecord(
            call=self._call,
            model=self._model.name,
            kind=self._model.kind.value,
            model_version=deployment.version if deployment else self._model.version_in(self._call.data_zone),
            deployment=deployment.name if deployment else "",
            outcome=self.outcome,
            usage=usage,
            estimated_cost=cost,
            upstream_calls=len(self.tries),
            seconds=self._clock() - self._started,
            seconds_to_first_token=None if self.begun_at is None else self.begun_at - self._started,
        )
        try:
            if self.admitted is not None:
                self.admitted.settle(usage.prompt_tokens + usage.completion_tokens, cost)
            self._recorder(record)
        except Exception as error:  # a call that was answered must not fail in its bookkeeping
            log.error("call_not_recorded", extra={"error": type(error).__name__})
