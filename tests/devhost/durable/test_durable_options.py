"""The durableTask section of host.json."""

import pytest

from devhost.durable import DurableOptions


def section(**values: object) -> dict[str, object]:
    return {"version": "2.0", "extensions": {"durableTask": values}}


def test_a_host_json_without_the_section_gives_the_defaults() -> None:
    assert DurableOptions.from_host_json({"version": "2.0"}) == DurableOptions()


def test_limits_and_names_are_read_and_storage_is_ignored() -> None:
    options = DurableOptions.from_host_json(
        section(
            hubName="Hub",
            maxConcurrentActivityFunctions=3,
            maxConcurrentOrchestratorFunctions=2,
            maxEntityOperationBatchSize=7,
            defaultVersion="1.5",
            storageProvider={"type": "azureManaged"},
            extendedSessionsEnabled=True,
            httpSettings={"defaultAsyncRequestSleepTimeMilliseconds": 250},
        )
    )
    assert options == DurableOptions("Hub", 3, 2, 7, 250, "1.5")


@pytest.mark.parametrize(("settings", "name"), [({"HUB": "Mine"}, "Mine"), ({}, "TestHubName")])
def test_a_hub_name_may_stand_in_an_app_setting(settings: dict[str, str], name: str) -> None:
    assert DurableOptions.from_host_json(section(hubName="%HUB%"), settings).hub_name == name


@pytest.mark.parametrize("value", [0, -1, "5", True, 1.5])
def test_a_limit_that_is_no_positive_integer_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="maxConcurrentActivityFunctions must be a positive integer"):
        DurableOptions.from_host_json(section(maxConcurrentActivityFunctions=value))


def test_the_smallest_limit_is_one() -> None:
    assert DurableOptions.from_host_json(section(maxEntityOperationBatchSize=1)).max_entity_batch == 1
