"""Settings: what is read, what is refused, and that secrets do not show."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys

import pytest

from shared.config import APP_ROOT, SETTINGS, ConfigurationError, Settings, refuse_unguarded_ingress

ENDPOINTS = {
    "GroundworkStorage__blobServiceUri": "https://a.blob.core.windows.net",
    "GroundworkStorage__queueServiceUri": "https://a.queue.core.windows.net",
    "GroundworkStorage__tableServiceUri": "https://a.table.core.windows.net",
}
LAPTOP = {"GroundworkStorage": "UseDevelopmentStorage=true", "GROUNDWORK_SEARCH": "embedded:index"}


def test_a_connection_string_or_all_three_endpoints_give_the_storage():
    assert Settings.parse(LAPTOP).storage.connection_string == "UseDevelopmentStorage=true"
    azure = Settings.parse({**ENDPOINTS, "GROUNDWORK_SEARCH": "https://search"}).storage
    assert azure.connection_string is None
    assert azure.table_endpoint == "https://a.table.core.windows.net"


@pytest.mark.parametrize("absent", ENDPOINTS)
def test_a_storage_endpoint_that_is_missing_is_a_fault(absent: str):
    some = {name: value for name, value in ENDPOINTS.items() if name != absent}
    with pytest.raises(ConfigurationError, match="GroundworkStorage: expected"):
        Settings.parse({**some, "GROUNDWORK_SEARCH": "https://search"})


def test_every_fault_is_named_at_once_with_the_form_expected():
    with pytest.raises(ConfigurationError) as caught:
        Settings.parse(
            {
                "GROUNDWORK_SEARCH": "somewhere",
                "GROUNDWORK_PUBLIC_URL": "groundwork.example",
                "GROUNDWORK_MODELS": "no-such-file.toml",
                "GROUNDWORK_BOOTSTRAP_KEY_SHA256": "secret",
                "GROUNDWORK_MAX_DOCUMENT_BYTES": "much",
                "GROUNDWORK_PARSER_WORKERS": "0",
                "GROUNDWORK_SHARDS_IN_FLIGHT": "65",
                "GROUNDWORK_LIMITS": "user_requests=5",
            }
        )
    faults = dict(re.findall(r"(\w+): expected ([^;]+)", str(caught.value)))
    assert faults.keys() == {
        "GroundworkStorage",
        "GROUNDWORK_SEARCH",
        "GROUNDWORK_PUBLIC_URL",
        "GROUNDWORK_MODELS",
        "GROUNDWORK_BOOTSTRAP_KEY_SHA256",
        "GROUNDWORK_MAX_DOCUMENT_BYTES",
        "GROUNDWORK_PARSER_WORKERS",
        "GROUNDWORK_SHARDS_IN_FLIGHT",
        "GROUNDWORK_LIMITS",
    }
    assert faults["GROUNDWORK_PARSER_WORKERS"] == "a whole number from 1 to 64"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("GROUNDWORK_PARSER_WORKERS", "1", True),
        ("GROUNDWORK_PARSER_WORKERS", "64", True),
        ("GROUNDWORK_PARSER_WORKERS", "65", False),
        ("GROUNDWORK_PARSER_WORKERS", "-1", False),
        ("GROUNDWORK_PARSER_WORKERS", "²", False),
        ("GROUNDWORK_PARSER_WORKERS", "9" * 5000, False),
        ("GROUNDWORK_MAX_DOCUMENT_BYTES", "1", True),
        ("GROUNDWORK_MAX_DOCUMENT_BYTES", "0", False),
        ("GROUNDWORK_BOOTSTRAP_KEY_SHA256", "a" * 64, True),
        ("GROUNDWORK_BOOTSTRAP_KEY_SHA256", "a" * 63, False),
        ("GROUNDWORK_BOOTSTRAP_KEY_SHA256", "A" * 64, False),
        ("GROUNDWORK_SEARCH", "http://127.0.0.1:1", True),
        ("GROUNDWORK_SEARCH", "embedded:", False),
        ("GROUNDWORK_SEARCH", "ftp://search", False),
        ("GROUNDWORK_PUBLIC_URL", "https://groundwork.example", True),
        ("GROUNDWORK_PUBLIC_URL", "javascript:x", False),
    ],
)
def test_values_are_taken_up_to_their_limits(name: str, value: str, good: bool):
    environment = {**LAPTOP, name: value}
    if good:
        Settings.parse(environment)
    else:
        with pytest.raises(ConfigurationError, match=name):
            Settings.parse(environment)


def test_an_empty_setting_is_as_one_that_is_absent():
    empty = {setting.name: "" for setting in SETTINGS if setting.name not in LAPTOP}
    assert dataclasses.replace(Settings.parse({**LAPTOP, **empty}), environment={}) == dataclasses.replace(
        Settings.parse(LAPTOP), environment={}
    )


def test_a_public_address_has_no_slash_at_its_end():
    assert Settings.parse({**LAPTOP, "GROUNDWORK_PUBLIC_URL": "https://g.example/"}).public_url == (
        "https://g.example"
    )


def test_the_representation_shows_no_secret():
    secret = {
        "GroundworkStorage": "AccountKey=topsecret",
        "GROUNDWORK_BOOTSTRAP_KEY_SHA256": "ab" * 32,
        "SOME_API_KEY": "topsecret",
    }
    shown = repr(Settings.parse({**LAPTOP, **secret}))
    assert "topsecret" not in shown
    assert "abab" not in shown


def test_settings_cannot_be_changed():
    settings = Settings.parse(LAPTOP)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.search = "elsewhere"  # pyright: ignore[reportAttributeAccessIssue]


def test_the_table_names_each_setting_once_with_its_purpose_and_a_good_default():
    names = [setting.name for setting in SETTINGS]
    assert len(names) == len(set(names))
    assert all(setting.purpose for setting in SETTINGS)
    defaults = {setting.name: setting.default for setting in SETTINGS if setting.default is not None}
    assert Settings.parse({**LAPTOP, **defaults}).models_file == APP_ROOT / "models.azure.toml"


def test_every_setting_that_the_source_names_is_in_the_table():
    source = (APP_ROOT / "shared" / "config.py").read_text()
    used = set(re.findall(r'reader\.\w+\(\s*"([A-Za-z_]+)"', source))
    assert used - {"GroundworkStorage"} <= {setting.name for setting in SETTINGS}
    assert len(used) > 8


# --- who is believed ---

ENTRA_TENANT = "11111111-2222-3333-4444-555555555555"
ENTRA = {"GROUNDWORK_ENTRA_AUDIENCE": "api", "GROUNDWORK_ENTRA_TENANTS": f"{ENTRA_TENANT}=harbour"}
INGRESS = {**ENTRA, "GROUNDWORK_TRUSTED_INGRESS": "app-service"}


def test_entra_tenants_stand_for_tenants_of_ours():
    entra = Settings.parse({**LAPTOP, **ENTRA, "GROUNDWORK_ENTRA_AUTHORITY": "https://login.example/"}).entra
    assert entra is not None
    assert (entra.authority, entra.audience) == ("https://login.example", ("api",))
    assert entra.tenants == {ENTRA_TENANT: "harbour"}
    two = f"{ENTRA_TENANT.upper()} = harbour , {ENTRA_TENANT[:-1]}6=quay"
    parsed = Settings.parse({**LAPTOP, **ENTRA, "GROUNDWORK_ENTRA_TENANTS": two}).entra
    assert parsed is not None
    assert parsed.tenants == {ENTRA_TENANT: "harbour", f"{ENTRA_TENANT[:-1]}6": "quay"}
    assert Settings.parse(LAPTOP).entra is None


@pytest.mark.security("API2", "API8")
@pytest.mark.parametrize(
    "change",
    [
        {"GROUNDWORK_ENTRA_TENANTS": "common=harbour"},
        {"GROUNDWORK_ENTRA_TENANTS": f"{ENTRA_TENANT}=Harbour"},
        {"GROUNDWORK_ENTRA_TENANTS": ENTRA_TENANT},
        {"GROUNDWORK_ENTRA_TENANTS": ""},
        {"GROUNDWORK_ENTRA_AUDIENCE": ""},
        {"GROUNDWORK_ENTRA_AUTHORITY": "http://login.example"},
        {"GROUNDWORK_ENTRA_AUTHORITY": "http://127.0.0.1.evil.example"},
    ],
)
def test_entra_settings_that_would_let_in_anyone_are_refused(change: dict[str, str]):
    with pytest.raises(ConfigurationError, match="GROUNDWORK_ENTRA"):
        Settings.parse({**LAPTOP, **ENTRA, **change})


@pytest.mark.security("API8")
@pytest.mark.parametrize(
    ("platform", "starts"),
    [
        ({}, False),
        ({"WEBSITE_HOSTNAME": "app.azurewebsites.net"}, False),
        ({"WEBSITE_HOSTNAME": "0.0.0.0:7071"}, False),
        ({"WEBSITE_HOSTNAME": "127.0.0.1.evil.example"}, False),
        ({"WEBSITE_HOSTNAME": "app.azurewebsites.net", "WEBSITE_AUTH_ENABLED": "False"}, False),
        ({"WEBSITE_HOSTNAME": "app.azurewebsites.net", "WEBSITE_AUTH_ENABLED": "True"}, True),
        ({"WEBSITE_HOSTNAME": "127.0.0.1:7071"}, True),
        ({"WEBSITE_HOSTNAME": "localhost:7071"}, True),
    ],
)
def test_an_ingress_is_trusted_where_it_is_or_where_nobody_else_can_come(
    platform: dict[str, str], starts: bool
):
    environment = {**LAPTOP, **INGRESS, **platform}
    if starts:
        refuse_unguarded_ingress(environment)
        assert Settings.parse(environment).trusts_ingress
        return
    for check in (refuse_unguarded_ingress, Settings.parse):
        with pytest.raises(ConfigurationError, match="GROUNDWORK_TRUSTED_INGRESS"):
            check(environment)


@pytest.mark.security("API8")
def test_the_app_does_not_even_load_where_a_trusted_ingress_is_not_there():
    program = [sys.executable, "-c", "import function_app"]
    given = {**os.environ, **INGRESS}
    for hostname, loads in (("0.0.0.0:7071", False), ("127.0.0.1:7071", True)):
        environment = {**given, "WEBSITE_HOSTNAME": hostname}
        done = subprocess.run(program, cwd=APP_ROOT, env=environment, capture_output=True, text=True)
        assert (done.returncode == 0) == loads, done.stderr
        assert loads or "GROUNDWORK_TRUSTED_INGRESS" in done.stderr


def test_an_ingress_that_is_not_trusted_needs_no_platform():
    refuse_unguarded_ingress(LAPTOP)
    assert not Settings.parse(LAPTOP).trusts_ingress
    with pytest.raises(ConfigurationError, match="GROUNDWORK_ENTRA_TENANTS"):
        Settings.parse(
            {**LAPTOP, "GROUNDWORK_TRUSTED_INGRESS": "app-service", "WEBSITE_AUTH_ENABLED": "true"}
        )
