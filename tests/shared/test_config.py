"""Settings: what is read, what is refused, and that secrets do not show."""

from __future__ import annotations

import dataclasses
import re

import pytest

from shared.config import APP_ROOT, SETTINGS, ConfigurationError, Settings

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
