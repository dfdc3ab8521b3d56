import pytest

from shared.inferencing.faults import (
    DeploymentFault,
    FaultKind,
    Rejected,
    classify_error_event,
    classify_status,
    retry_after_seconds,
)

NOON = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "10"}, 10.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "10", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "10", "retry-after-ms": "soon"}, 10.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOON) == seconds


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (429, {}, FaultKind.THROTTLED),
        (503, {"retry-after": "5"}, FaultKind.THROTTLED),
        (503, {}, FaultKind.FAILED),
        (503, {"retry-after": "0"}, FaultKind.FAILED),
        (500, {}, FaultKind.FAILED),
        (408, {}, FaultKind.FAILED),
        (302, {}, FaultKind.FAILED),
        (401, {}, FaultKind.MISCONFIGURED),
        (403, {}, FaultKind.MISCONFIGURED),
        (404, {}, FaultKind.MISCONFIGURED),
    ],
)
def test_statuses_that_blame_the_deployment(status: int, headers: dict[str, str], kind: FaultKind) -> None:
    fault = classify_status(status, headers, b"")
    assert isinstance(fault, DeploymentFault)
    assert fault.kind is kind


@pytest.mark.parametrize("status", [400, 402, 405, 413, 415, 422])
def test_statuses_that_blame_the_request(status: int) -> None:
    assert isinstance(classify_status(status, {}, b"{}"), Rejected)


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[]", b'{"error": "text"}', b'"error"', b'{"error": null}']
)
def test_a_refusal_without_an_error_object_has_no_fields(body: bytes) -> None:
    assert Rejected(400, body).error == {}


def test_error_events_blame_the_request_only_where_they_say_so() -> None:
    assert isinstance(classify_error_event({"code": "content_filter"}), Rejected)
    assert isinstance(classify_error_event({"type": "invalid_request_error"}), Rejected)
    for error in ({"code": "server_error"}, "text", {"code": 500}):
        fault = classify_error_event(error)
        assert isinstance(fault, DeploymentFault)
        assert fault.kind is FaultKind.FAILED
    throttled = classify_error_event({"code": "rate_limit_exceeded"})
    assert isinstance(throttled, DeploymentFault)
    assert throttled.kind is FaultKind.THROTTLED
