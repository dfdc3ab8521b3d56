"""host.json and local.settings.json mean what they mean to the Functions host."""

import json

import pytest

from devhost.errors import SettingsError
from devhost.settings import parse_time_span, read_host_options, read_local_settings


def options(tmp_path, document, **settings):
    (tmp_path / "host.json").write_text(json.dumps({"version": "2.0", **document}))
    return read_host_options(tmp_path, settings)


def test_defaults_are_those_of_the_functions_host(tmp_path):
    read = options(tmp_path, {})
    assert read.route_prefix == "api"
    assert read.function_timeout_seconds == 1800
    assert (read.queues.batch_size, read.queues.new_batch_threshold, read.queues.max_dequeue_count) == (
        16,
        8,
        5,
    )
    assert read.queues.base64_messages
    assert read.queues.max_polling_interval_seconds == 60
    assert read.blobs.poison_blob_threshold == 5


def test_an_empty_route_prefix_stays_empty(tmp_path):
    assert options(tmp_path, {"extensions": {"http": {"routePrefix": ""}}}).route_prefix == ""


def test_the_new_batch_threshold_is_half_of_the_batch_unless_given(tmp_path):
    assert options(tmp_path, {"extensions": {"queues": {"batchSize": 8}}}).queues.new_batch_threshold == 4
    given = {"extensions": {"queues": {"batchSize": 8, "newBatchThreshold": 1}}}
    assert options(tmp_path, given).queues.new_batch_threshold == 1


def test_app_settings_override_host_json_and_fill_in_its_placeholders(tmp_path):
    read = options(
        tmp_path,
        {"extensions": {"queues": {"batchSize": 8}, "durableTask": {"hubName": "%HUB%"}}},
        HUB="Mine",
        AzureFunctionsJobHost__Extensions__Queues__BatchSize="4",
        AzureFunctionsJobHost__functionTimeout="00:01:00",
    )
    assert read.queues.batch_size == 4
    assert read.function_timeout_seconds == 60
    assert read.host_json["extensions"]["durableTask"]["hubName"] == "Mine"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:00:30", 30), ("01:02:03", 3723), ("1.00:00:00", 86400), ("00:00:00.5", 0.5)],
)
def test_time_spans_are_read_in_seconds(text, seconds):
    assert parse_time_span(text, "x") == seconds


@pytest.mark.parametrize("text", ["30", "5 minutes", "", None, 30, "1:2"])
def test_other_texts_are_no_time_spans(text):
    with pytest.raises(SettingsError, match=r"queues\.x"):
        parse_time_span(text, "queues.x")


def test_an_unbounded_function_timeout_is_minus_one(tmp_path):
    assert options(tmp_path, {"functionTimeout": "-1"}).function_timeout_seconds is None


@pytest.mark.parametrize("size", [1, 32])
def test_batch_sizes_within_the_services_limit_are_accepted(tmp_path, size):
    assert options(tmp_path, {"extensions": {"queues": {"batchSize": size}}}).queues.batch_size == size


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ({"queues": {"batchSize": 33}}, "batchSize"),
        ({"queues": {"batchSize": 0}}, "batchSize"),
        ({"queues": {"batchSize": True}}, "batchSize"),
        ({"queues": {"messageEncoding": "utf-16"}}, "messageEncoding"),
        ({"queues": {"visibilityTimeout": 30}}, "visibilityTimeout"),
        ({"blobs": {"maxDegreeOfParallelism": "many"}}, "maxDegreeOfParallelism"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(tmp_path, section, name):
    with pytest.raises(SettingsError, match=name):
        options(tmp_path, {"extensions": section})


def test_an_unknown_placeholder_is_refused_by_its_name(tmp_path):
    with pytest.raises(SettingsError, match="NO_SUCH"):
        options(tmp_path, {"extensions": {"durableTask": {"hubName": "%NO_SUCH%"}}})


def test_a_missing_or_broken_host_json_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"no host\.json"):
        read_host_options(tmp_path, {})
    (tmp_path / "host.json").write_text("{")
    with pytest.raises(SettingsError, match="not valid JSON"):
        read_host_options(tmp_path, {})


def test_local_settings_give_their_values(tmp_path):
    file = tmp_path / "local.settings.json"
    assert read_local_settings(file) == {}
    file.write_text('{"IsEncrypted": false, "Values": {"A": "1"}}')
    assert read_local_settings(file) == {"A": "1"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"IsEncrypted": true, "Values": {}}', "encrypted"),
        ('{"Values": {"A": 1}}', "'A' must be text"),
        ('{"Values": []}', "Values"),
        ("[]", "JSON object"),
    ],
)
def test_local_settings_that_cannot_be_used_say_why(tmp_path, text, reason):
    file = tmp_path / "local.settings.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=reason):
        read_local_settings(file)
