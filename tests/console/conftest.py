"""A real Chromium that looks at the console of a real stack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from console_page import Console
from playwright.async_api import Browser, async_playwright

from laptop.environment import find_chromium

# Without a sandbox it runs as root in a container; the others keep the browser's own traffic quiet.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """The machine's Chromium, else the one that Playwright has installed; a machine without any fails."""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        yield running
        await running.close()


@pytest_asyncio.fixture(loop_scope="module")
async def console(browser: Browser, stack: Any) -> AsyncIterator[Console]:
    """A page with a tenant of its own; after the test, nothing may have left the origin or gone wrong."""
    context = await browser.new_context(viewport={"width": 1280, "height": 860}, locale="en-GB")
    page = await context.new_page()
    page.set_default_timeout(30_000)
    tenant = stack.new_tenant()
    console = Console(page, stack.url, stack.key_for(tenant), tenant)

    def told(message: Any) -> None:
        # The browser reports each answer of 400 and above; those are the tests' own business.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            console.faults.append(message.text)

    context.on("request", lambda request: console.requests.append(request.url))
    page.on("console", told)
    page.on("pageerror", lambda error: console.faults.append(str(error)))
    page.on("dialog", lambda dialog: console.faults.append(f"dialog: {dialog.message}"))
    yield console
    await context.close()
    elsewhere = [url for url in console.requests if not url.startswith((f"{stack.url}/", "data:"))]
    assert elsewhere == []
    assert console.faults == []
