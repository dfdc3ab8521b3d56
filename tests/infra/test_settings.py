"""App settings: what the code reads, what Azure sets and what the laptop's example gives agree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import bicep
import pytest

from shared.config import LIMITS, SETTINGS, Settings

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = bicep.parse(ROOT / "infra" / "modules" / "functionapp.bicep")

# Settings of the Functions host and of its Python worker, which the app's code does not read.
HOST_SETTINGS = {
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "AzureWebJobsDisableHomepage",
    "AzureWebJobsStorage__blobServiceUri",
    "AzureWebJobsStorage__clientId",
    "AzureWebJobsStorage__credential",
    "AzureWebJobsStorage__queueServiceUri",
    "AzureWebJobsStorage__tableServiceUri",
    "DURABLE_TASK_SCHEDULER_CONNECTION_STRING",
    "GroundworkStorage__clientId",
    "GroundworkStorage__credential",
    "PYTHON_ENABLE_INIT_INDEXING",
    "PYTHON_THREADPOOL_THREAD_COUNT",
    "TASKHUB_NAME",
}
# Flex Consumption takes these from functionAppConfig and refuses or ignores them as settings.
REFUSED_SETTINGS = re.compile(
    r"FUNCTIONS_(WORKER_RUNTIME|EXTENSION_VERSION|WORKER_PROCESS_COUNT|MAX_HTTP_CONCURRENCY).*"
    r"|WEBSITE_.*|SCM_DO_BUILD_DURING_DEPLOYMENT|ENABLE_ORYX_BUILD"
)


def deployed() -> dict[str, str]:
    """The settings of the function app, each with the source of its value."""
    body = TEMPLATE.resources["settings"].node("properties")
    assert body is not None
    return {name: (node.text or b"").decode() for name, node in bicep.properties(body).items()}


def local() -> dict[str, str]:
    return json.loads((ROOT / "local.settings.json.example").read_text())["Values"]


def test_azure_sets_exactly_what_the_code_and_the_host_read() -> None:
    read = {setting.name for setting in SETTINGS if setting.deployed}
    assert set(deployed()) == read | HOST_SETTINGS


def test_azure_sets_nothing_that_belongs_to_the_laptop() -> None:
    laptop = {setting.name for setting in SETTINGS if not setting.deployed}
    assert laptop
    assert not laptop & set(deployed())


def test_no_setting_is_one_that_flex_consumption_refuses() -> None:
    assert [name for name in deployed() if REFUSED_SETTINGS.fullmatch(name)] == []


def test_every_storage_connection_signs_in_with_the_identity() -> None:
    settings = deployed()
    for connection in ("AzureWebJobsStorage", "GroundworkStorage"):
        assert settings[f"{connection}__credential"] == "'managedidentity'"
        assert settings[f"{connection}__clientId"] == "identityClientId"
        assert connection not in settings
    assert "Authentication=ManagedIdentity" in settings["DURABLE_TASK_SCHEDULER_CONNECTION_STRING"]
    assert "Authorization=AAD" in settings["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"]


def test_a_fixed_value_has_the_form_that_the_code_expects() -> None:
    fixed = {name: value.strip("'") for name, value in deployed().items() if re.fullmatch(r"'[^$]*'", value)}
    numbers = {
        name: value for name, value in fixed.items() if value.isdigit() and name.startswith("GROUNDWORK")
    }
    parsed = Settings.parse(
        {
            **numbers,
            "GroundworkStorage__blobServiceUri": "https://a.blob.core.windows.net/",
            "GroundworkStorage__queueServiceUri": "https://a.queue.core.windows.net/",
            "GroundworkStorage__tableServiceUri": "https://a.table.core.windows.net/",
            "GROUNDWORK_SEARCH": "https://a.search.windows.net",
            "GROUNDWORK_MODELS": "host.json",  # any file that is there
            "GROUNDWORK_MODEL_ENDPOINT": "https://a.openai.azure.com/",
            "GROUNDWORK_BOOTSTRAP_KEY_SHA256": "",
        }
    )
    assert parsed.parser_workers == 1
    assert parsed.max_document_bytes == int(numbers["GROUNDWORK_MAX_DOCUMENT_BYTES"])


def test_tenants_have_the_limits_in_azure_that_they_have_by_default() -> None:
    assert deployed()["GROUNDWORK_LIMITS"].strip("'") == LIMITS


def test_the_threads_of_the_worker_are_as_many_as_host_json_uses() -> None:
    durable = json.loads((ROOT / "host.json").read_text())["extensions"]["durableTask"]
    threads = int(bicep.resolve(TEMPLATE, "workerThreads"))
    assert deployed()["PYTHON_THREADPOOL_THREAD_COUNT"] == "string(workerThreads)"
    assert durable["maxConcurrentActivityFunctions"] == threads
    assert durable["maxConcurrentOrchestratorFunctions"] == threads
    assert local()["PYTHON_THREADPOOL_THREAD_COUNT"] == str(threads)


def test_the_laptops_example_gives_every_setting_that_has_no_default() -> None:
    needed = {
        setting.name
        for setting in SETTINGS
        if setting.default is None and not setting.name.startswith("GroundworkStorage__")
    }
    assert needed <= set(local())


def test_the_laptops_example_names_no_setting_that_nobody_reads() -> None:
    known = {setting.name for setting in SETTINGS} | HOST_SETTINGS
    known |= {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage"}
    overrides = {name for name in local() if name.startswith("AzureFunctionsJobHost__")}
    assert set(local()) - known == overrides


def test_the_laptops_example_overrides_only_what_host_json_has() -> None:
    host = json.loads((ROOT / "host.json").read_text())
    overrides = [name for name in local() if name.startswith("AzureFunctionsJobHost__")]
    assert overrides
    for name in overrides:
        node = host
        for part in name.split("__")[1:]:
            assert part in node, name
            node = node[part]


def test_the_laptops_example_holds_no_key_but_the_emulators_public_one() -> None:
    text = json.dumps(local())
    accounts = re.findall(r"AccountName=(\w+)", text)
    assert accounts == ["devstoreaccount1"]
    assert len(re.findall(r"AccountKey=", text)) == 1


@pytest.mark.parametrize(
    ("path", "goes"),
    [
        ("function_app.py", True),
        ("host.json", True),
        ("requirements.txt", True),
        ("models.azure.toml", True),
        ("functions/chat.py", True),
        ("shared/knowledge/client/index.py", True),
        ("web/index.html", True),
        (".python_packages/lib/a.py", True),
        ("models.local.toml", False),
        ("local.settings.json", False),
        (".env", False),
        (".git/config", False),
        (".venv/bin/python", False),
        (".groundwork/state.db", False),
        ("devhost/engine.py", False),
        ("modelhost/server.py", False),
        ("client/groundwork.py", False),
        ("tests/infra/bicep.py", False),
        ("samples/a.pdf", False),
        ("infra/main.bicep", False),
        ("requirements-local.txt", False),
        ("shared/__pycache__/a.pyc", False),
        ("README.md", False),
    ],
)
def test_only_the_app_is_packed(path: str, goes: bool, tmp_path: Path) -> None:
    # .funcignore has the rules of .gitignore, so git itself says what they mean.
    git = shutil.which("git")
    assert git is not None
    shutil.copy(ROOT / ".funcignore", tmp_path / "rules")
    subprocess.run([git, "init", "-q", tmp_path], check=True)
    ignored = subprocess.run(
        [
            git,
            "-C",
            tmp_path,
            "-c",
            f"core.excludesFile={tmp_path / 'rules'}",
            "check-ignore",
            "--no-index",
            path,
        ],
        capture_output=True,
        check=False,
    )
    assert ignored.returncode == (1 if goes else 0), ignored
