"""Storages that do not answer for a while are waited for; mistakes are not."""

from __future__ import annotations

import pytest

from deepfake.errors import UserError
from deepfake.sweeping.outage import is_outage, ride_out


def test_after_its_patience_an_outage_ends_in_an_error(waits: list[float]) -> None:
    def away() -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(UserError, match="x has not answered for 60 s: gone"):
        ride_out(away, "x", 60.0)
    assert sum(waits) == pytest.approx(60.0)


def test_without_patience_the_first_failure_is_told(waits: list[float]) -> None:
    def away() -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(UserError, match="x does not answer: gone"):
        ride_out(away, "x", 0.0)
    assert waits == []


def test_a_mistake_is_no_outage(waits: list[float]) -> None:
    def mistaken() -> None:
        raise KeyError("a")

    with pytest.raises(KeyError):
        ride_out(mistaken, "x", 60.0)
    assert waits == []


def test_a_missing_table_or_file_is_told_from_a_silent_server() -> None:
    from sqlalchemy.exc import IntegrityError, OperationalError

    silent, twice = OperationalError("q", {}, Exception("refused")), IntegrityError("q", {}, Exception("twice"))
    assert [is_outage(error) for error in (silent, twice, FileNotFoundError())] == [True, False, False]
