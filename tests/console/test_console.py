"""The console against the real stack, as a person uses it."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient
from console_page import Console
from playwright.async_api import expect

from client import NewDocument
from shared.config import StorageSettings
from shared.storage import INGESTION_QUEUE, PARSED, open_storage

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

# Offsets count characters, browsers count UTF-16 units: the symbols before the sentence tell them apart.
SENTENCE = "The lighthouse keeper of Orrin Skerry feeds the harbour cats at half past six."
HANDBOOK = (
    "# Harbour rules 🐈🐈🐈\n\n"
    + "Boats moor at the northern quay 🛟 and pay by length. The fee is due on Mondays.\n\n" * 40
    + f"## Animals\n\n{SENTENCE}\n\n"
    + "## Weather\n\n"
    + "Storm signals are hoisted at the old customs house.\n\n" * 40
).encode()
QUESTION = "When does the lighthouse keeper of Orrin Skerry feed the harbour cats?"

BROKEN = b"%PDF-1.7 broken"

HOSTILE = (
    b"# Vault <script>window.ran = 'heading'</script>\n\n"
    b"The password of the copper vault is marmalade <img src=x onerror=\"window.ran='image'\"> "
    b"<svg onload=window.ran='svg'></svg> [here](javascript:window.ran='link') "
    b'<iframe srcdoc="<script>parent.ran=1</script>"></iframe> https://other.example/x.png.\n'
)
HOSTILE_NAME = "<img src=x onerror=window.ran='name'>.txt"


def fill_collection(stack: Any, console: Console, *documents: tuple[str, bytes]) -> None:
    with stack.client(console.key) as client:
        client.put_collection("harbour")
        for job in client.ingest("harbour", [NewDocument(*document) for document in documents]):
            assert stack.finished(job.id, key=console.key)["state"] == "succeeded"


async def test_without_a_key_a_panel_asks_for_one_and_a_wrong_one_is_told(console: Console) -> None:
    page = console.page
    await page.goto(console.url)
    await page.fill("#key", "gw_0000000000000000_" + "a" * 43)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("not valid")
    await page.fill("#key", console.key)
    await page.keyboard.press("Enter")
    await expect(page.locator(".who")).to_contain_text(console.tenant)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.locator("#key")).to_be_visible()
    assert await page.evaluate("sessionStorage.length + localStorage.length") == 0


async def test_the_key_leaves_the_address_bar_and_stays_in_the_tab(console: Console) -> None:
    page = console.page
    await console.open()
    assert page.url == f"{console.url}/#/ask"
    await page.reload()
    await expect(page.locator("nav")).to_be_visible()
    assert await page.evaluate("localStorage.length") == 0
    assert not any(console.key in url.partition("#")[0] for url in console.requests)
    other = await page.context.new_page()
    await other.goto(console.url)
    await expect(other.locator("#key")).to_be_visible()


async def test_dropped_files_show_progress_and_end_in_their_states(console: Console) -> None:
    page = console.page
    await console.open("documents")
    await page.fill("#collection-name", "harbour")
    await page.get_by_role("button", name="Create").click()
    await expect(page.get_by_role("heading", name="harbour")).to_be_visible()
    await page.evaluate(
        """() => {
            window.bars = 0;
            new MutationObserver(() => {
                window.bars += document.querySelectorAll('.upload [role=progressbar]').length;
            }).observe(document.body, { childList: true, subtree: true, attributes: true });
        }"""
    )
    await console.drop(("rules.md", HANDBOOK), ("broken.pdf", BROKEN), ("cat.png", b"\x89PNG\r\n\x1a\n"))
    await expect(page.get_by_role("status")).to_contain_text("3 of 3 files done", timeout=60_000)
    assert await page.evaluate("window.bars") > 0
    uploads = {name: page.locator(".upload", has_text=name) for name in ("rules.md", "broken.pdf", "cat.png")}
    await expect(uploads["rules.md"]).to_contain_text("succeeded")
    await expect(uploads["broken.pdf"]).to_contain_text("failed")
    await expect(uploads["cat.png"]).to_contain_text("unsupported_media_type")
    rows = page.locator("table.documents tbody tr")
    await expect(rows).to_have_count(2)
    await expect(rows.filter(has_text="rules.md")).to_contain_text("indexed")
    await expect(rows.filter(has_text="broken.pdf")).to_contain_text(re.compile("failed.*", re.DOTALL))
    await expect(rows.filter(has_text="broken.pdf").locator("code")).not_to_be_empty()

    await page.get_by_role("button", name="Delete broken.pdf").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(rows).to_have_count(1)


async def test_an_answer_streams_and_its_citation_opens_the_document_at_the_cited_words(
    console: Console, stack: Any, tmp_path: Path
) -> None:
    page = console.page
    fill_collection(stack, console, ("animals/rules.md", HANDBOOK))
    await console.open()
    await page.evaluate(
        """() => {
            window.busy = [];
            new MutationObserver(() => {
                const now = document.querySelector('.answer')?.getAttribute('aria-busy');
                if (now && window.busy.at(-1) !== now) window.busy.push(now);
            }).observe(document.body, { childList: true, subtree: true, attributes: true });
        }"""
    )
    async with page.expect_response("**/api/chat") as told:
        await console.ask(QUESTION)
    response = await told.value
    assert response.headers["content-type"].startswith("text/event-stream")
    answer = page.locator(".answer")
    await expect(answer).to_contain_text("half past six")
    await expect(page.locator(".timings")).to_contain_text("retrieve")
    assert await page.evaluate("window.busy") == ["true", "false"]
    assert await answer.get_attribute("aria-live") == "polite"
    await page.screenshot(path=tmp_path / "answer.png")

    citation = answer.get_by_role("button", name=re.compile("^Source 1"))
    await citation.focus()
    await page.keyboard.press("Enter")
    mark = page.locator("dialog mark")
    await expect(mark).to_be_in_viewport()
    await expect(mark).to_have_text(SENTENCE)
    await expect(page.locator("dialog .place")).to_contain_text("Animals")
    await page.screenshot(path=tmp_path / "viewer.png")
    assert (tmp_path / "viewer.png").stat().st_size > 10_000
    await page.keyboard.press("Escape")
    await expect(page.locator("dialog")).to_have_count(0)
    await expect(citation).to_be_focused()


async def test_a_question_that_the_documents_do_not_answer_is_told_so(console: Console, stack: Any) -> None:
    fill_collection(stack, console, ("rules.md", HANDBOOK))
    await console.open()
    await console.ask("Who won the chess championship of Ruritania in 1911?")
    await expect(console.page.locator(".answer")).to_contain_text("Not found in the documents")
    await expect(console.page.locator(".answer button.number")).to_have_count(0)


async def test_a_replaced_document_is_shown_as_it_was_cited_and_later_at_the_same_words(
    console: Console, stack: Any
) -> None:
    fill_collection(stack, console, ("rules.md", HANDBOOK))
    await console.open()
    await console.ask(QUESTION)
    await expect(console.page.locator(".answer")).to_contain_text("half past six")
    moved = HANDBOOK.replace(b"# Harbour rules", "# 🐕 Rules of the harbour, revised".encode())
    fill_collection(stack, console, ("rules.md", moved))
    citation = console.page.locator(".answer button.number").first
    mark, note = console.page.locator("dialog mark"), console.page.locator("dialog .note")
    await citation.click()
    await expect(mark).to_have_text(SENTENCE)
    await expect(note).to_contain_text("replaced by version 2")
    await console.page.keyboard.press("Escape")

    with BlobServiceClient.from_connection_string(stack.storage) as blobs:
        texts = blobs.get_container_client(PARSED)
        kept = texts.list_blobs(name_starts_with=f"{console.tenant}/harbour/")
        first = min(kept, key=lambda blob: blob.creation_time or blob.last_modified)
        texts.delete_blob(first.name)
    await citation.click()
    await expect(mark).to_have_text(SENTENCE)
    await expect(note).to_contain_text("This is version 2, where the same words stand")


async def test_an_error_shows_its_code_and_correlation_id(console: Console, stack: Any) -> None:
    fill_collection(stack, console, ("rules.md", HANDBOOK))
    await console.open()
    await expect(console.page.locator(".choice")).to_contain_text("harbour")
    with stack.client(console.key) as client:
        stack.finished(client.delete_collection("harbour").id, key=console.key)
    await console.ask(QUESTION)
    alert = console.page.get_by_role("alert")
    await expect(alert).to_contain_text("not_found")
    await expect(alert).to_contain_text(re.compile("correlation id [0-9a-f]{32}"))


@pytest.mark.security("API8", "LLM05")
async def test_hostile_documents_and_names_stay_text(console: Console, stack: Any) -> None:
    page = console.page
    fill_collection(stack, console, ("vault.txt", HOSTILE), (HOSTILE_NAME, HOSTILE))
    await console.open()
    await console.ask("What is the password of the copper vault?")
    await expect(page.locator(".answer")).to_contain_text("marmalade")
    await expect(page.locator(".answer")).to_contain_text("<img src=x")
    await page.locator(".answer button.number").first.click()
    await expect(page.locator("dialog .reading")).to_contain_text("<script>")
    await page.keyboard.press("Escape")
    await page.goto(f"{console.url}/#/documents/harbour")
    await expect(page.locator("table.documents")).to_contain_text(HOSTILE_NAME)
    await page.goto(f"{console.url}/#/jobs")
    await page.locator(".unfold").first.click()
    await expect(page.locator("table.outcomes")).to_contain_text(HOSTILE_NAME)
    assert await page.evaluate("window.ran") is None
    assert await page.locator("main :is(script, img, iframe, svg[onload], [href^='javascript'])").count() == 0


@pytest.mark.security("API8", "LLM05")
async def test_the_policy_keeps_foreign_code_from_running(console: Console) -> None:
    page = console.page
    response = await page.goto(console.url)
    assert response is not None
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    await page.evaluate(
        """async () => {
            const image = `<img src="data:," onerror="window.ran='handler'">`;
            document.body.insertAdjacentHTML("beforeend", image);
            const script = document.createElement("script");
            script.textContent = "window.ran = 'script'";
            document.body.append(script);
            await new Promise((resolve) => setTimeout(resolve, 200));
        }"""
    )
    assert await page.evaluate("window.ran") is None
    assert len(console.faults) == 2
    assert all("Content Security Policy" in fault for fault in console.faults)
    console.faults.clear()


async def test_a_failed_job_tells_its_reasons_and_can_be_run_again(console: Console, stack: Any) -> None:
    page = console.page
    with stack.client(console.key) as client:
        client.put_collection("harbour")
        job = client.put_document("harbour", "broken.pdf", BROKEN)
    stack.finished(job.id, key=console.key)
    await console.open(f"jobs/{job.id}")
    row = page.locator(f"[data-job='{job.id}']")
    await expect(row.locator("> .job-head .state")).to_have_text("failed")
    await expect(row.locator("table.outcomes .reason")).not_to_be_empty()
    await row.get_by_role("button", name="Retry").click()
    await expect(row).to_contain_text("attempt 2")
    await expect(row.locator("> .job-head .state")).to_have_text("failed")


async def test_a_message_that_was_refused_is_played_again_from_the_console(
    console: Console, stack: Any
) -> None:
    page, collection = console.page, f"c-{uuid.uuid4().hex[:8]}"
    body = {"collection": collection, "documents": [{"id": "a.txt", "content": "Crates of salt."}]}
    with stack.client(console.key) as client:
        tenant = client.me()["tenant"]
        async with open_storage(StorageSettings(connection_string=stack.storage)) as storage:
            await storage.send(INGESTION_QUEUE, json.dumps({"tenant": tenant, **body}))
        await console.open("jobs")
        row = page.locator(".job", has_text="Refused: message").first
        await expect(row.locator("> .job-head .state")).to_have_text("failed", timeout=60_000)
        row = page.locator(f"[data-job='{await row.get_attribute('data-job')}']")
        client.put_collection(collection)
        await row.get_by_role("button", name="Retry").click()
        await expect(row.locator("> .job-head .state")).to_have_text("succeeded", timeout=60_000)
        assert [document.id for document in client.documents(collection)] == ["a.txt"]


async def test_a_running_job_shows_its_stages_and_can_be_cancelled(console: Console, stack: Any) -> None:
    page = console.page
    with stack.client(console.key) as client:
        client.put_collection("harbour")
        notes = [NewDocument(f"{i:03}.md", HANDBOOK + str(i).encode()) for i in range(150)]
        (job,) = client.ingest("harbour", notes)
    await console.open("jobs")
    row = page.locator(f"[data-job='{job.id}']")
    await expect(row.get_by_role("progressbar")).to_be_visible()
    await expect(row.locator(".stages")).to_contain_text("embed")
    await expect(row.locator(".stages")).to_contain_text("/ 150 documents")
    await row.get_by_role("button", name="Cancel").click()
    await expect(row.locator("> .job-head .state")).to_have_text("cancelled", timeout=60_000)


async def test_on_a_phone_nothing_scrolls_sideways(console: Console, stack: Any) -> None:
    page = console.page
    await page.set_viewport_size({"width": 390, "height": 844})
    long_name = "a-very-long-name-without-any-space-" * 3 + ".md"
    fill_collection(stack, console, ("rules.md", HANDBOOK), (long_name, HANDBOOK))
    await console.open()
    await console.ask(QUESTION)
    await expect(page.locator(".timings")).to_be_visible()
    seen = {}
    for screen, there in (("ask", ".timings"), ("documents", "table"), ("jobs", ".job")):
        await page.goto(f"{console.url}/#/{screen}")
        await expect(page.locator(there).first).to_be_visible()
        seen[screen] = await page.evaluate("document.documentElement.scrollWidth")
    assert seen == {"ask": 390, "documents": 390, "jobs": 390}
