"""The table of `python dev.py test --security`: each risk of two OWASP lists, its tests, their result.

A test names the risks it is about: ``@pytest.mark.security("API1", "LLM02")``. With ``--security`` only
such tests run. A risk without a test counts as open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

# OWASP API Security Top 10 (2023) and OWASP Top 10 for LLM Applications (2025).
RISKS = {
    "API1": "Broken object level authorization",
    "API2": "Broken authentication",
    "API3": "Broken object property level authorization",
    "API4": "Unrestricted resource consumption",
    "API5": "Broken function level authorization",
    "API6": "Unrestricted access to sensitive business flows",
    "API7": "Server-side request forgery",
    "API8": "Security misconfiguration",
    "API9": "Improper inventory management",
    "API10": "Unsafe consumption of APIs",
    "LLM01": "Prompt injection",
    "LLM02": "Sensitive information disclosure",
    "LLM03": "Supply chain",
    "LLM04": "Data and model poisoning",
    "LLM05": "Improper output handling",
    "LLM06": "Excessive agency",
    "LLM07": "System prompt leakage",
    "LLM08": "Vector and embedding weaknesses",
    "LLM09": "Misinformation",
    "LLM10": "Unbounded consumption",
}
PROPERTY = "security"


@dataclass
class Row:
    """What became of the tests of one risk."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    noticed: int = 0
    unnoticed: int = 0
    modules: set[str] = field(default_factory=set)

    @property
    def result(self) -> str:
        if self.failed or self.unnoticed:
            return "FAILED"
        return "passed" if self.passed else "OPEN: no test"

    def add(self, report: Any) -> None:
        if "mutation" in report.keywords:
            self.noticed += report.passed
            self.unnoticed += report.failed
            return
        self.modules.add(report.nodeid.partition("::")[0].rpartition("/")[2].removeprefix("test_")[:-3])
        self.passed += report.passed
        self.failed += report.failed
        self.skipped += report.skipped


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note the risks of each test, and leave out what was not asked for."""
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        risks = [risk for mark in item.iter_markers("security") for risk in mark.args]
        unknown = [risk for risk in risks if risk not in RISKS]
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: no such risk: {', '.join(unknown)}")
        item.user_properties.append((PROPERTY, sorted(set(risks))))
        asked = bool(risks) or not config.getoption("--security")
        mutated = item.get_closest_marker("mutation") is None or config.getoption("--mutations")
        (kept if asked and mutated else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def lines(reports: Iterable[Any]) -> Iterable[str]:
    """The table."""
    rows = {risk: Row() for risk in RISKS}
    for report in reports:
        decisive = getattr(report, "when", None) == "call" or getattr(report, "outcome", "") != "passed"
        for risk in dict(getattr(report, "user_properties", ())).get(PROPERTY, ()) if decisive else ():
            rows[risk].add(report)
    yield f"{'risk':6} {'':48} {'result':14} {'tests':>9} {'mutations':>9}  modules"
    for risk, row in rows.items():
        tests = f"{row.passed}/{row.passed + row.failed}"
        tried = row.noticed + row.unnoticed
        mutations = f"{row.noticed}/{tried}" if tried else "-"
        modules = ", ".join(sorted(row.modules))
        yield f"{risk:6} {RISKS[risk]:48} {row.result:14} {tests:>9} {mutations:>9}  {modules}"
