"""A page of the console in a real browser, and what a person does with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from playwright.async_api import Page, expect


@dataclass
class Console:
    """A page of the console, and what it did that a user does not see."""

    page: Page
    url: str
    key: str
    tenant: str
    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    async def open(self, screen: str = "ask") -> None:
        """Sign in by the address, as a user does who follows the link that the start prints."""
        await self.page.goto(f"{self.url}/#key={self.key}")
        await self.page.wait_for_selector("nav")
        if screen != "ask":
            await self.page.goto(f"{self.url}/#/{screen}")

    async def drop(self, *files: tuple[str, bytes]) -> None:
        """Drop files as the system does: enter, over, drop with a DataTransfer."""
        await self.page.wait_for_selector("[data-drop]")
        await self.page.evaluate(
            """(files) => {
                const dataTransfer = new DataTransfer();
                for (const [name, bytes] of files)
                    dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
                const zone = document.querySelector("[data-drop]");
                const shared = { bubbles: true, cancelable: true, dataTransfer };
                for (const kind of ["dragenter", "dragover", "drop"])
                    zone.dispatchEvent(new DragEvent(kind, shared));
            }""",
            [[name, list(content)] for name, content in files],
        )

    async def ask(self, question: str) -> None:
        await self.page.fill("#question", question)
        # The collections to ask come after the page itself.
        await expect(self.page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
        await self.page.keyboard.press("Enter")
