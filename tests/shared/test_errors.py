"""The errors that a caller may see: codes, statuses, the tree in the docstring."""

from __future__ import annotations

import errno
import http
import re
from collections.abc import Iterator

import pytest

from shared import errors
from shared.errors import (
    Contended,
    GroundworkError,
    HostFault,
    InternalError,
    InvalidRequest,
    NotFound,
    RateLimited,
    typed,
)


def every(error: type[GroundworkError] = GroundworkError) -> Iterator[type[GroundworkError]]:
    yield error
    for child in error.__subclasses__():
        yield from every(child)


ERRORS = [error for error in every() if error.__module__ == errors.__name__]


def test_codes_are_stable_words_and_belong_to_one_error_each():
    codes = [error.code for error in ERRORS if "code" in vars(error)]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_each_error_has_a_status_and_a_title(error: type[GroundworkError]):
    assert http.HTTPStatus(error.status).value >= 400
    assert error.title
    assert "\n" not in error.title


def test_the_tree_in_the_docstring_shows_every_error_under_its_parent_with_its_status():
    tree = errors.__doc__ or ""
    for error in ERRORS[1:]:
        assert re.search(rf"\b{error.__name__}\b", tree), error.__name__
    for name, status in re.findall(r"(\w+) +(\d{3})\b", tree):
        assert getattr(errors, name).status == int(status), name


def test_what_is_the_callers_fault_is_never_retryable_and_what_is_behind_us_always_is():
    for error in ERRORS:
        if 400 <= error.status < 429:
            assert error.retryable == (error is Contended), error
        if error.status > 500:
            assert error.retryable, error
    assert RateLimited.retryable


def test_an_error_tells_its_detail_or_its_title():
    assert InvalidRequest("Wrong.").detail == str(InvalidRequest("Wrong.")) == "Wrong."
    assert InvalidRequest().detail == InvalidRequest.title
    assert InvalidRequest("Wrong.", limit=3).extra == {"limit": 3}
    assert RateLimited(retry_after=2.5).retry_after == 2.5


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_who_is_refused_for_now_is_always_told_how_long_to_wait(error: type[GroundworkError]):
    raised = error("x")
    assert (raised.wait_seconds is not None) == (error.status in (429, 503))
    raised.retry_after = 2.5
    assert raised.wait_seconds == 2.5


def test_not_found_names_the_kind_of_thing():
    assert NotFound("job", "1").extra == {"resource": "job"}
    assert NotFound("job", "1").detail == "There is no job '1'."
    assert NotFound("job").detail == "There is no such job."


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), HostFault),
        (TimeoutError(), HostFault),
        (ValueError("x"), InternalError),
        (RateLimited(), RateLimited),
    ],
    ids=["full disk", "timeout", "a defect", "typed already"],
)
def test_what_passes_by_itself_may_be_tried_again_and_a_defect_may_not(
    raised: Exception, seen: type[GroundworkError]
):
    assert type(typed(raised)) is seen
    assert typed(raised).retryable == (seen is not InternalError)
    assert "space" not in typed(raised).detail
