"""A host that trusts App Service authentication: where it may run, and what it believes there."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_tenant import call, check_problem
from openid_issuer import OpenIdIssuer

from laptop.stack import free_port
from shared.config import APP_ROOT

pytestmark = pytest.mark.security("API2", "API8")

# Nothing here needs storage: what is asked is answered from the header alone.
NOWHERE = "AccountName=a;AccountKey=YQ==;" + ";".join(
    f"{kind}Endpoint=http://127.0.0.1:9/a" for kind in ("Blob", "Queue", "Table")
)


@pytest.fixture(scope="module")
def issuer() -> Iterator[OpenIdIssuer]:
    issuer = OpenIdIssuer()
    yield issuer
    issuer.close()


def started(folder: Path, issuer: OpenIdIssuer, host: str, port: int) -> subprocess.Popen[str]:
    settings = {
        **issuer.settings,
        "GROUNDWORK_TRUSTED_INGRESS": "app-service",
        "AzureWebJobsStorage": NOWHERE,
        "GroundworkStorage": NOWHERE,
        "GROUNDWORK_SEARCH": f"embedded:{folder / 'index'}",
        "GROUNDWORK_MODELS": "models.local.toml",
        "GROUNDWORK_MODEL_ENDPOINT": "http://127.0.0.1:9/v1",
        "TASKHUB_NAME": "ingress",
        "PYTHON_ENABLE_INIT_INDEXING": "1",
    }
    command = [sys.executable, "-m", "devhost", "--host", host, "--port", str(port)]
    command += ["--data", str(folder / "data"), "--settings", str(folder / "none")]
    return subprocess.Popen(
        command,
        cwd=APP_ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_does_not_start_where_others_could_write_the_header(tmp_path: Path, issuer: OpenIdIssuer):
    process = started(tmp_path, issuer, "0.0.0.0", free_port())
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode not in (0, None)
    assert "GROUNDWORK_TRUSTED_INGRESS" in output


def test_on_the_machine_itself_it_believes_one_well_formed_header(tmp_path: Path, issuer: OpenIdIssuer):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = started(tmp_path, issuer, "127.0.0.1", port)
    try:
        assert process.stdout is not None
        while "serves" not in (line := process.stdout.readline()):
            assert line, "the host ended"
        entra, tenant = next(iter(issuer.tenants.items()))
        values = {"tid": entra, "oid": "alice", "roles": "reader"}
        claims = [{"typ": name, "val": value} for name, value in values.items()]
        document = json.dumps({"auth_typ": "aad", "role_typ": "roles", "claims": claims})
        header = {"X-MS-CLIENT-PRINCIPAL": base64.b64encode(document.encode()).decode()}
        who = call(url, "GET", "/api/me", headers=header).json
        assert (who["tenant"], who["user"], who["roles"]) == (tenant, "alice", ["reader"])
        for other in ({}, {"X-MS-CLIENT-PRINCIPAL": "e30="}, {"X-MS-CLIENT-PRINCIPAL-ID": "alice"}):
            check_problem(call(url, "GET", "/api/me", headers=other), 401, "unauthenticated")
        # a credential of the caller's own is never replaced by what the header says
        forged = {**header, "Authorization": f"Bearer {issuer.token(exp=1)}"}
        check_problem(call(url, "GET", "/api/me", headers=forged), 401, "unauthenticated")
    finally:
        process.kill()
        process.communicate()
