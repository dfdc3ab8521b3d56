"""host.json, azure.yaml, the parameter file and the hooks: their form, and what they promise each other."""

from __future__ import annotations

import ast
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import bicep
import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"

TIME_SPAN = {"type": "string", "pattern": r"^\d\d:[0-5]\d:[0-5]\d$"}
COUNT = {"type": "integer", "minimum": 1}


def closed(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """The schema of an object that has all of ``required`` and nothing unknown: misspellings are faults."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


HOST_SCHEMA = closed(
    {
        "version": {"const": "2.0"},
        "extensionBundle": closed(
            {
                "id": {"const": "Microsoft.Azure.Functions.ExtensionBundle"},
                "version": {"const": "[4.*, 5.0.0)"},
            }
        ),
        "functionTimeout": TIME_SPAN,
        "extensions": closed(
            {
                "http": closed(
                    {
                        "routePrefix": {"const": ""},
                        "dynamicThrottlesEnabled": {"type": "boolean"},
                        "maxConcurrentRequests": {"type": "integer", "minimum": -1},
                        "maxOutstandingRequests": COUNT,
                    }
                ),
                "queues": closed(
                    {
                        "batchSize": {"type": "integer", "minimum": 1, "maximum": 32},
                        "newBatchThreshold": COUNT,
                        "maxDequeueCount": COUNT,
                        "visibilityTimeout": TIME_SPAN,
                        "maxPollingInterval": TIME_SPAN,
                        "messageEncoding": {"enum": ["none", "base64"]},
                    }
                ),
                "blobs": closed({"maxDegreeOfParallelism": COUNT, "poisonBlobThreshold": COUNT}),
                "durableTask": closed(
                    {
                        "hubName": {"const": "%TASKHUB_NAME%"},
                        "defaultVersion": {"type": "string", "pattern": r"^\d+\.\d+$"},
                        "versionMatchStrategy": {"enum": ["None", "Strict", "CurrentOrOlder"]},
                        "versionFailureStrategy": {"enum": ["Reject", "Fail"]},
                        "maxConcurrentActivityFunctions": COUNT,
                        "maxConcurrentOrchestratorFunctions": COUNT,
                        "storageProvider": closed(
                            {
                                "type": {"const": "azureManaged"},
                                "connectionStringName": {"const": "DURABLE_TASK_SCHEDULER_CONNECTION_STRING"},
                            }
                        ),
                        "tracing": closed(
                            {
                                "traceInputsAndOutputs": {"const": False},
                                "traceReplayEvents": {"const": False},
                                "distributedTracingEnabled": {"const": True},
                                "version": {"const": "V2"},
                            }
                        ),
                    }
                ),
            }
        ),
        "logging": closed(
            {
                "logLevel": {
                    "type": "object",
                    "additionalProperties": {"enum": ["Trace", "Debug", "Information", "Warning", "Error"]},
                },
                "applicationInsights": closed(
                    {
                        "samplingSettings": closed(
                            {
                                "isEnabled": {"type": "boolean"},
                                "maxTelemetryItemsPerSecond": COUNT,
                                "excludedTypes": {"type": "string"},
                            }
                        )
                    }
                ),
            }
        ),
    }
)

SCRIPT = closed({"shell": {"enum": ["sh", "pwsh"]}, "run": {"type": "string"}})
AZURE_SCHEMA = closed(
    {
        "name": {"const": "groundwork"},
        "infra": closed(
            {"provider": {"const": "bicep"}, "path": {"const": "infra"}, "module": {"const": "main"}}
        ),
        "services": closed(
            {
                "api": closed(
                    {
                        "project": {"const": "."},
                        "language": {"const": "python"},
                        "host": {"const": "function"},
                    }
                )
            }
        ),
        "hooks": closed({"postdeploy": closed({"posix": SCRIPT, "windows": SCRIPT})}),
    }
)
PARAMETERS_SCHEMA = closed(
    {
        "$schema": {"type": "string", "pattern": r"/2019-04-01/deploymentParameters\.json#$"},
        "contentVersion": {"const": "1.0.0.0"},
        "parameters": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": closed(
                {"value": {"type": "string", "pattern": r"^\$\{[A-Z0-9_]+(=.*)?\}$"}}
            ),
        },
    }
)


def host() -> dict[str, Any]:
    return json.loads((ROOT / "host.json").read_text())


def azure() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "azure.yaml").read_text())


def blob_functions() -> set[str]:
    """The names of the functions that a blob trigger calls, read from the source of the app."""
    names: set[str] = set()
    for path in (ROOT / "functions").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
                if any(".blob_trigger(" in text for text in decorators):
                    named = re.search(r"\.function_name\((?:name=)?'(\w+)'\)", " ".join(decorators))
                    names.add(named[1] if named else node.name)
    return names


def test_host_json_has_the_form_of_the_functions_host() -> None:
    jsonschema.validate(host(), HOST_SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("extensions.queues.messageEncodng", "none"),
        ("extensions.queues.batchSize", 33),
        ("extensions.durableTask.tracing.traceInputsAndOutputs", True),
        ("extensions.durableTask.storageProvider.type", "AzureStorage"),
        ("extensions.http.routePrefix", "api"),
        ("functionTimeout", "30 minutes"),
    ],
)
def test_the_schema_of_host_json_refuses(path: str, value: object) -> None:
    broken = copy.deepcopy(host())
    *parents, last = path.split(".")
    node = broken
    for part in parents:
        node = node[part]
    node[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, HOST_SCHEMA)


def test_the_queue_refills_at_half_a_batch_and_gives_up_after_five_tries() -> None:
    queues = host()["extensions"]["queues"]
    assert queues["newBatchThreshold"] * 2 == queues["batchSize"] == 16
    assert queues["maxDequeueCount"] == host()["extensions"]["blobs"]["poisonBlobThreshold"] == 5


def test_the_queue_reads_what_the_storage_sdk_sends_by_default() -> None:
    from azure.storage.queue import QueueClient

    client = QueueClient("https://a.queue.core.windows.net", "ingestion-requests", credential="a2V5")
    assert type(client._message_encode_policy).__name__ == "NoEncodePolicy"
    assert host()["extensions"]["queues"]["messageEncoding"] == "none"


def test_sampling_drops_no_request_and_no_exception() -> None:
    sampling = host()["logging"]["applicationInsights"]["samplingSettings"]
    assert set(sampling["excludedTypes"].split(";")) == {"Request", "Exception"}


def test_azure_yaml_has_the_form_of_azd() -> None:
    jsonschema.validate(azure(), AZURE_SCHEMA)


def test_azure_yaml_passes_yamllint() -> None:
    rules = "{extends: default, rules: {document-start: disable, line-length: {max: 110}}}"
    lint = [sys.executable, "-m", "yamllint", "--strict", "-d", rules, os.fspath(ROOT / "azure.yaml")]
    assert subprocess.run(lint, capture_output=True, text=True, check=False).stdout == ""


def test_the_parameter_file_takes_every_value_from_the_azd_environment() -> None:
    jsonschema.validate(json.loads((INFRA / "main.parameters.json").read_text()), PARAMETERS_SCHEMA)


def test_the_service_of_azd_is_the_tag_of_the_function_app() -> None:
    tags = bicep.parse(INFRA / "modules" / "functionapp.bicep").resources["app"].value("tags") or ""
    assert re.findall(r"'azd-service-name': '(\w+)'", tags) == list(azure()["services"])


def test_every_hook_is_a_script_that_is_there_and_that_a_shell_can_read() -> None:
    hook = azure()["hooks"]["postdeploy"]
    for system in ("posix", "windows"):
        assert (ROOT / hook[system]["run"]).is_file()
    shell = shutil.which("sh")
    if shell is not None:
        subprocess.run([shell, "-n", ROOT / hook["posix"]["run"]], check=True)


@pytest.mark.skipif(os.name == "nt", reason="the hook for Windows is the PowerShell script")
@pytest.mark.parametrize(("failures", "status", "calls"), [(0, 0, 1), (2, 0, 3), (5, 0, 6), (6, 1, 6)])
def test_the_hook_tries_six_times(failures: int, status: int, calls: int, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    script = f'#!/bin/sh\necho "$@" >> {log}\n[ "$(wc -l < {log})" -gt {failures} ]\n'
    for name, body in (("az", script), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "AZURE_SUBSCRIPTION_ID": "s",
        "AZURE_RESOURCE_GROUP": "rg-a",
        "AZURE_FUNCTION_APP_NAME": "func-a",
        "AZURE_STORAGE_ACCOUNT_NAME": "sta",
    }
    hook = [str(INFRA / "hooks" / "postdeploy.sh")]
    done = subprocess.run(["sh", *hook], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    lines = log.read_text().splitlines()
    assert len(lines) == calls
    assert "--parameters functionAppName=func-a storageAccountName=sta" in lines[0]


def test_event_grid_calls_the_function_that_has_the_blob_trigger() -> None:
    text = (INFRA / "eventgrid.bicep").read_text()
    assert blob_functions() == set(re.findall(r"param functionName string = '(\w+)'", text))


def test_the_catalogue_of_models_names_the_deployments_that_are_made() -> None:
    text = json.dumps(tomllib.loads((ROOT / "models.azure.toml").read_text()))
    parameters = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    for name in ("chatModelName", "chatModelVersion", "embeddingModelName", "embeddingModelVersion"):
        default = parameters[name]["value"].partition("=")[2].rstrip("}")
        assert f'"{default}"' in text, f"{name} is {default}, which models.azure.toml does not name"
