"""Timer triggers: six-field NCRONTAB schedules in UTC, with their status kept over restarts."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta

from azure.functions.meta import Datum
from croniter import CroniterError, croniter

from devhost.bindings import Bindings
from devhost.errors import AppLoadError, SettingsError
from devhost.invocation import Invoker
from devhost.plans import Plan
from devhost.settings import parse_time_span
from devhost.state import ListenerState, TimerStatus

log = logging.getLogger(__name__)

# Sleeping in slices keeps a timer right when the machine's clock is set or the laptop was asleep.
LONGEST_SLEEP_SECONDS = 30.0
# The Functions host does not keep the status of schedules that are due more often than this.
MIN_MONITORED_INTERVAL = timedelta(minutes=1)


class Schedule:
    """When a timer is due: NCRONTAB with or without a field for seconds, or a time span as an interval.

    croniter does the calendar. NCRONTAB differs from cron in two points, which are set here: seconds come
    first, and when day of month and day of week are both given, both must fit.
    """

    def __init__(self, text: str) -> None:
        self._interval: timedelta | None = None
        self._text = text.strip()
        fields = len(self._text.split())
        try:
            if fields == 1:
                self._interval = timedelta(seconds=parse_time_span(self._text, "schedule"))
                if not self._interval:
                    raise ValueError("an interval of no length")
            elif fields in (5, 6):
                self._text = self._text if fields == 6 else f"0 {self._text}"
                self.after(datetime.now(UTC))
            else:
                raise ValueError("not five or six fields")
        except (CroniterError, SettingsError, ValueError) as error:
            raise AppLoadError(f"schedule {text!r} is neither NCRONTAB nor a time span: {error}") from error

    def after(self, moment: datetime) -> datetime:
        """The first time after `moment` at which the timer is due."""
        if self._interval is not None:
            return moment + self._interval
        return croniter(self._text, moment, second_at_beginning=True, day_or=False).get_next(datetime)


class TimerListener:
    """Runs one function whenever its schedule is due, never twice at a time."""

    def __init__(self, plan: Plan, bindings: Bindings, invoker: Invoker, state: ListenerState) -> None:
        trigger = plan.function.trigger
        self._schedule = Schedule(bindings.resolve(trigger.schedule))
        self._plan, self._bindings, self._invoker, self._state = plan, bindings, invoker, state
        self._run_on_startup = bool(trigger.run_on_startup)
        now = datetime.now(UTC)
        first = self._schedule.after(now)
        often = self._schedule.after(first) - first < MIN_MONITORED_INTERVAL
        self._monitored = trigger.use_monitor is not False and not often
        self.running: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Wait and run until cancelled; a run under way goes on."""
        now = datetime.now(UTC)
        status = self._state.timer_status(self._plan.name) if self._monitored else None
        last = status.last if status else None
        missed = status is not None and status.next < now
        due = self._schedule.after(now)
        if missed or self._run_on_startup:
            last = await self._run(last, due, past_due=missed)
        while True:
            self._remember(last, due)
            await _sleep_until(due)
            await self._run(last, self._schedule.after(due), past_due=False)
            last, due = due, self._schedule.after(max(due, datetime.now(UTC)))

    def _remember(self, last: datetime | None, due: datetime) -> None:
        if self._monitored:
            self._state.save_timer_status(self._plan.name, TimerStatus(last, due, datetime.now(UTC)))

    async def _run(self, last: datetime | None, due: datetime, *, past_due: bool) -> datetime:
        now = datetime.now(UTC)
        info = {
            "Schedule": {"AdjustForDST": True},
            "ScheduleStatus": {
                "Last": (last or datetime.min).isoformat(),
                "Next": due.isoformat(),
                "LastUpdated": (last or now).isoformat(),
            },
            "IsPastDue": past_due,
        }
        task = asyncio.create_task(self._invoke(json.dumps(info)))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        await asyncio.wait([task])
        return now

    async def _invoke(self, info: str) -> None:
        value = self._plan.trigger.decode(Datum(info, "json"), {})
        try:
            await self._invoker.run(self._plan, value, {}, self._bindings)
        except Exception:
            return  # the invoker has logged it; the schedule goes on


async def _sleep_until(moment: datetime) -> None:
    while True:
        left = (moment - datetime.now(UTC)).total_seconds()
        if left <= 0:
            return
        await asyncio.sleep(min(left, LONGEST_SLEEP_SECONDS))
