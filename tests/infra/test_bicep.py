"""The Bicep templates, and the checker that reads them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import bicep
import pytest

from shared import storage as storage_module

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
TEMPLATES = sorted(INFRA.rglob("*.bicep"))
ENTRY_POINTS = (INFRA / "main.bicep", INFRA / "eventgrid.bicep")


def module(name: str) -> bicep.Template:
    return bicep.parse(INFRA / "modules" / f"{name}.bicep")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_no_fault(path: Path) -> None:
    assert bicep.faults(bicep.parse(path)) == []


def test_every_module_is_used_by_main() -> None:
    used = {call.type for call in bicep.parse(INFRA / "main.bicep").modules.values()}
    assert {f"modules/{path.name}" for path in (INFRA / "modules").iterdir()} == used


def test_every_role_is_assigned_somewhere_and_only_search_may_manage_its_service() -> None:
    assigned = {name for path in TEMPLATES for name in bicep.parse(path).variables if name in bicep.ROLES}
    assert assigned == set(bicep.ROLES)
    managing = [path.stem for path in TEMPLATES if "searchServiceContributor" in bicep.parse(path).variables]
    assert managing == ["search"]


def test_names_are_unique_to_the_subscription_the_environment_and_the_region() -> None:
    suffix = bicep.parse(INFRA / "main.bicep").variables["suffix"].text
    assert suffix == b"toLower(uniqueString(subscription().id, environmentName, location))"


def test_the_parameter_file_gives_exactly_the_parameters_of_main() -> None:
    given = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    assert set(given) == set(bicep.parse(INFRA / "main.bicep").parameters)


def test_what_the_hook_passes_is_what_main_puts_out_and_event_grid_takes() -> None:
    outputs = bicep.parse(INFRA / "main.bicep").outputs
    parameters = bicep.parse(INFRA / "eventgrid.bicep").parameters
    for script, variable in (("postdeploy.sh", r"\$(AZURE_\w+)"), ("postdeploy.ps1", r"\$env:(AZURE_\w+)")):
        text = (INFRA / "hooks" / script).read_text()
        # azd itself sets the subscription's id.
        assert set(re.findall(variable, text)) - {"AZURE_SUBSCRIPTION_ID"} <= set(outputs)
        passed = set(re.findall(r"(\w+)=\"?\$(?:env:)?AZURE_", text))
        assert passed <= set(parameters)
        assert {name for name, parameter in parameters.items() if parameter.required} <= passed


def test_the_containers_and_the_queue_of_the_code_are_made() -> None:
    variables = module("storage").variables
    containers = {storage_module.RAW, storage_module.PARSED, storage_module.JOBS, storage_module.INBOX}
    assert containers <= set(bicep.strings(variables["containers"]))
    assert storage_module.INGESTION_QUEUE in bicep.strings(variables["queues"])


def test_event_grid_listens_to_the_inbox_alone_and_keeps_what_it_cannot_deliver() -> None:
    template = bicep.parse(INFRA / "eventgrid.bicep")
    subscription = template.resources["inboxToApp"]
    assert template.variables["container"].text == f"'{storage_module.INBOX}'".encode()
    prefix = "'/blobServices/default/containers/${container}/blobs/'"
    assert subscription.value("properties.filter.subjectBeginsWith") == prefix
    assert subscription.value("properties.filter.includedEventTypes") == "['Microsoft.Storage.BlobCreated']"
    assert subscription.value("properties.deadLetterWithResourceIdentity") is not None
    assert "event-dead-letters" in bicep.strings(module("storage").variables["containers"])


def test_the_function_app_runs_python_312_on_flex_consumption_with_a_warm_durable_group() -> None:
    resources = module("functionapp").resources
    assert resources["plan"].value("sku.name") == "'FC1'"
    config = "properties.functionAppConfig"
    app = resources["app"]
    assert app.value(f"{config}.runtime.name") == "'python'"
    assert app.value(f"{config}.runtime.version") == "'3.12'"
    memory = app.value(f"{config}.scaleAndConcurrency.instanceMemoryMB") or ""
    assert bicep.resolve(module("functionapp"), memory) == "2048"
    ready = app.value(f"{config}.scaleAndConcurrency.alwaysReady") or ""
    assert re.search(r"name: 'durable'\s+instanceCount: 1", ready)


def test_the_semantic_ranker_is_on() -> None:
    assert module("search").resources["service"].value("properties.semanticSearch") == "'standard'"


def test_telemetry_keeps_durable_traces_and_holds_no_query_text() -> None:
    assert module("monitoring").resources["insights"].value("properties.DisableLocalAuth") == "false"
    assert module("search").resources["measures"].value("properties.logs") is None


MAIN = INFRA / "main.bicep"
STORAGE = INFRA / "modules" / "storage.bicep"
MODELS = INFRA / "modules" / "models.bicep"
BROKEN = {
    "a brace is missing": (STORAGE, "    accessTier: 'Hot'", "    accessTier: {", "syntax error"),
    "a declaration is cut": (STORAGE, "param location string", "param = string", "syntax error"),
    "shared keys are on": (STORAGE, "allowSharedKeyAccess: false", "allowSharedKeyAccess: true", "SharedKey"),
    "shared keys are unsaid": (
        STORAGE,
        "    allowSharedKeyAccess: false\n",
        "",
        "allowSharedKeyAccess is None",
    ),
    "old TLS is let in": (STORAGE, "'TLS1_2'", "'TLS1_0'", "minimumTlsVersion"),
    "blobs are public": (
        STORAGE,
        "allowBlobPublicAccess: false",
        "allowBlobPublicAccess: true",
        "PublicAccess",
    ),
    "model keys are on": (MODELS, "disableLocalAuth: true", "disableLocalAuth: false", "disableLocalAuth"),
    "a role is Contributor": (
        MODELS,
        "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd",
        "b24988ac-6180-42a0-ab88-20f7382dd24c",
        "no role that the app needs",
    ),
    "a role is Owner": (
        MODELS,
        "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd",
        "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",
        "no role that the app needs",
    ),
    "a role is another one": (
        MODELS,
        "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd",
        "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
        "cognitiveServicesOpenAIUser is not",
    ),
    "a role has no scope": (
        MODELS,
        "\n  scope: account\n  properties: {\n    role",
        "\n  properties: {\n    role",
        "single",
    ),
    "a role comes from outside": (
        MODELS,
        "var cognitiveServicesOpenAIUser = '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd'",
        "param cognitiveServicesOpenAIUser string",
        "not one of this file's variables",
    ),
    "a key is put out": (
        STORAGE,
        "output name string = account.name",
        "output name string = listKeys(account.id, '2024-01-01').keys[0].value",
        "secret",
    ),
    "a module is not there": (MAIN, "'modules/search.bicep'", "'modules/serch.bicep'", "there is no"),
    "a parameter is forgotten": (
        MAIN,
        "    taskHubName: taskHubName\n    location",
        "    location",
        "missing",
    ),
    "a parameter is unknown": (
        MAIN,
        "    sku: modelSku\n",
        "    sku: modelSku\n    skew: modelSku\n",
        "no parameter",
    ),
    "an output is unknown": (MAIN, "search.outputs.endpoint", "search.outputs.address", "no output"),
    "a name is misspelt": (MAIN, "scope: group", "scope: gruop", "gruop is not declared"),
    "a function is misspelt": (MAIN, "toLower(", "lowerCase(", "lowerCase is not declared"),
    "a parameter is unused": (
        STORAGE,
        "param tags object",
        "param tags object\nparam idle string",
        "not used",
    ),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_the_checker_finds_that(change: tuple[Path, str, str, str]) -> None:
    path, sound, broken, fault = change
    text = path.read_text()
    assert sound in text, "the control must break something that is there"
    found = bicep.faults(bicep.parse(path, text.replace(sound, broken)))
    assert any(fault in line for line in found), found


def test_the_compiler_accepts_the_templates_where_it_is_installed(tmp_path: Path) -> None:
    compiler = shutil.which("bicep")
    if compiler is None:
        pytest.skip("the Bicep compiler is not on PATH; the checker above has read the templates")
    for path in ENTRY_POINTS:
        built = subprocess.run(
            [compiler, "build", os.fspath(path), "--outfile", os.fspath(tmp_path / f"{path.stem}.json")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert built.returncode == 0, built.stderr
