"""``_now`` as a datetime that understands Luxon. What Luxon gives was looked up in its documentation."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from trio_runner.sandbox.clock import DateTime, zone

BERLIN = zone("Europe/Berlin")
AT = DateTime(2026, 11, 21, 16, 5, 9, 123456, BERLIN)


def at(text: str) -> DateTime:
    """A time by the clocks of Berlin."""
    return DateTime.of(datetime.fromisoformat(text).replace(tzinfo=BERLIN))


def clock(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M")


def test_it_is_a_datetime() -> None:
    assert isinstance(AT, datetime)
    assert AT + timedelta(days=1) == datetime(2026, 11, 22, 16, 5, 9, 123456, BERLIN)
    assert type(AT + timedelta(days=1)) is DateTime
    assert AT.strftime("%d.%m.%Y") == "21.11.2026"
    assert (AT.year, AT.month, AT.day, AT.weekday()) == (2026, 11, 21, 5)
    assert pickle.loads(pickle.dumps(AT)) == AT


def test_its_text_is_iso_with_milliseconds_as_in_javascript() -> None:
    assert str(AT) == AT.toISO() == AT.toString() == AT.toJSON() == f"{AT}" == "2026-11-21T16:05:09.123+01:00"
    assert json.dumps(AT, default=str) == '"2026-11-21T16:05:09.123+01:00"'
    assert AT.toUTC().toISO() == "2026-11-21T15:05:09.123Z"
    assert AT.toISODate() == "2026-11-21"
    assert AT.toISOTime() == "16:05:09.123+01:00"


@pytest.mark.parametrize(
    ("start", "duration", "expected"),
    [
        ("2026-01-31T10:00", {"months": 1}, "2026-02-28T10:00"),
        ("2024-02-29T10:00", {"years": 1}, "2025-02-28T10:00"),
        ("2026-11-30T10:00", {"quarters": 1}, "2027-02-28T10:00"),
        ("2026-12-31T23:59", {"minutes": 1}, "2027-01-01T00:00"),
        ("2026-03-28T12:00", {"days": 1}, "2026-03-29T12:00"),  # the clocks go forward in between
        ("2026-03-28T12:00", {"hours": 24}, "2026-03-29T13:00"),
        ("2026-03-28T02:30", {"days": 1}, "2026-03-29T03:30"),  # a time that does not exist
        ("2026-10-24T12:00", {"hours": 24}, "2026-10-25T11:00"),
        ("2026-01-01T00:00", {"weeks": 1, "day": 2}, "2026-01-10T00:00"),
        ("2026-01-01T00:00", {"days": 0.5}, "2026-01-01T12:00"),
        ("2026-01-01T00:00", 60_000, "2026-01-01T00:01"),
        ("2026-01-01T00:00", timedelta(hours=1), "2026-01-01T01:00"),
        ("2026-01-01T00:00", None, "2026-01-01T00:00"),
    ],
)
def test_durations_are_added(start: str, duration: Any, expected: str) -> None:
    assert clock(at(start).plus(duration)) == expected


def test_durations_are_given_by_name_and_taken_away() -> None:
    assert clock(at("2026-03-31T10:00").minus(months=1)) == "2026-02-28T10:00"
    assert clock(at("2026-03-31T10:00").minus({"days": 31}, hours=10)) == "2026-02-28T00:00"
    assert clock(at("2026-01-03T00:00").minus(at("2026-01-03T00:00").diff(at("2026-01-01T00:00"), "days"))) == (
        "2026-01-01T00:00"
    )


@pytest.mark.parametrize(
    ("unit", "start", "end"),
    [
        ("year", "2026-01-01T00:00:00.000", "2026-12-31T23:59:59.999"),
        ("quarter", "2026-10-01T00:00:00.000+02:00", "2026-12-31T23:59:59.999"),
        ("months", "2026-11-01T00:00:00.000", "2026-11-30T23:59:59.999"),
        ("week", "2026-11-16T00:00:00.000", "2026-11-22T23:59:59.999"),
        ("day", "2026-11-21T00:00:00.000", "2026-11-21T23:59:59.999"),
        ("hour", "2026-11-21T16:00:00.000", "2026-11-21T16:59:59.999"),
        ("minute", "2026-11-21T16:05:00.000", "2026-11-21T16:05:59.999"),
        ("second", "2026-11-21T16:05:09.000", "2026-11-21T16:05:09.999"),
        ("millisecond", "2026-11-21T16:05:09.123", "2026-11-21T16:05:09.123"),
    ],
)
def test_units_start_and_end(unit: str, start: str, end: str) -> None:
    assert AT.startOf(unit).toISO() == (start if "+" in start else f"{start}+01:00")
    assert AT.endOf(unit).toISO() == f"{end}+01:00"


@pytest.mark.parametrize(
    ("later", "earlier", "unit", "expected"),
    [
        ("2026-03-29T12:00", "2026-03-28T12:00", "days", 1),
        ("2026-03-29T12:00", "2026-03-28T12:00", "hours", 23),
        ("2026-03-15T00:00", "2026-01-15T00:00", "months", 2),
        ("2026-01-15T00:00", "2026-03-15T00:00", "months", -2),
        ("2026-02-15T00:00", "2026-01-01T00:00", "months", 1.5),
        ("2027-01-01T00:00", "2026-01-01T00:00", "year", 1),
        ("2026-01-15T00:00", "2026-01-01T00:00", "weeks", 2),
        ("2026-01-01T00:01", "2026-01-01T00:00", "milliseconds", 60_000),
    ],
)
def test_differences_are_told_in_a_unit(later: str, earlier: str, unit: str, expected: float) -> None:
    found = at(later).diff(at(earlier), [unit])
    plural = unit if unit.endswith("s") else f"{unit}s"
    assert found.toObject() == {plural: expected}
    assert getattr(found, plural) == float(found) == expected


def test_durations_say_what_they_are() -> None:
    found = at("2026-01-03T00:00").diff(at("2026-01-01T00:00"), "days")
    assert (found.days, found.hours, found.toMillis(), str(found)) == (2, 0, 172_800_000, "2 days")
    with pytest.raises(AttributeError, match="a duration has no 'dayz'"):
        _ = found.dayz
    with pytest.raises(ValueError, match="no fixed length"):
        at("2026-01-03T00:00").diff(AT, "months").toMillis()
    assert DateTime.now(UTC).diffNow("hours").hours <= 0


def test_a_number_with_a_unit_is_taken_as_in_n8n_s_expressions() -> None:
    assert AT.plus(7, "days") == AT.plus(days=7)
    assert AT.minus(2, "months") == AT.minus({"months": 2})
    with pytest.raises(ValueError, match="unknown unit 'dayz'"):
        AT.plus(1, "dayz")


def test_fields_are_set() -> None:
    assert clock(AT.set({"month": 2, "day": 31 - 3}, hour=0)) == "2026-02-28T00:05"
    assert clock(at("2026-01-31T00:00").set(month=2)) == "2026-02-28T00:00"
    assert AT.set(milliseconds=5).millisecond == 5
    with pytest.raises(ValueError, match="week cannot be set"):
        AT.set(week=1)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("yyyy-MM-dd HH:mm:ss.SSS", "2026-11-21 16:05:09.123"),
        ("dd.MM.yy", "21.11.26"),
        ("d MMM yyyy, h:mm a", "21 Nov 2026, 4:05 PM"),
        ("EEEE, MMMM d", "Saturday, November 21"),
        ("ccc c E", "Sat 6 6"),
        ("'week' W 'of' kkkk, 'day' o, q", "week 47 of 2026, day 325, 4"),
        ("ZZ ZZZ z", "+01:00 +0100 Europe/Berlin"),
        ("X x", "1795273509 1795273509123"),
        ("yyyyMMdd'T'HHmmss", "20261121T160509"),
        ("?! QQQQ", "?! QQQQ"),
    ],
)
def test_tokens_are_replaced(pattern: str, expected: str) -> None:
    assert AT.toFormat(pattern) == AT.format(pattern) == expected


def test_it_tells_what_luxon_s_tells() -> None:
    assert (AT.quarter, AT.weekNumber, AT.weekYear, AT.ordinal, AT.daysInMonth) == (4, 47, 2026, 325, 30)
    assert (AT.zoneName, AT.offset, AT.millisecond, AT.isValid) == ("Europe/Berlin", 60, 123, True)
    assert (AT.toMillis(), AT.toSeconds(), AT.toUnixInteger()) == (1795273509123, 1795273509.123, 1795273509)
    assert AT.toJSDate() is AT
    assert AT.hasSame(AT.plus(days=1), "month")
    assert not AT.hasSame(AT.plus(days=1), "day")


def test_the_zone_is_changed() -> None:
    assert AT.setZone("Asia/Tokyo").toISO() == "2026-11-22T00:05:09.123+09:00"
    assert AT.setZone("Asia/Tokyo") == AT


def test_it_is_read_from_text_and_numbers() -> None:
    assert AT.fromISO("2026-11-21T16:05:09.123+01:00").toMillis() == AT.toMillis()
    assert DateTime.fromISO("2026-11-21").toISO() == "2026-11-21T00:00:00.000Z"
    assert AT.fromISO("2026-11-21").toISO() == "2026-11-21T00:00:00.000+01:00"
    assert AT.fromISO("2026-07-21T10:00Z").toISO() == "2026-07-21T12:00:00.000+02:00"
    assert AT.fromISO("2026-07-21T10:00-05:00", {"setZone": True}).toISO() == "2026-07-21T10:00:00.000-05:00"
    assert AT.fromMillis(AT.toMillis()).toISO() == AT.toISO()
    assert DateTime.fromISO("2026-11-21", {"zone": "Europe/Berlin"}).offset == 60
    assert DateTime.fromMillis(AT.toMillis(), {"zone": "Europe/Berlin"}).toISO() == AT.toISO()


@pytest.mark.parametrize(
    ("name", "offset"),
    [("UTC", 0), ("Europe/Berlin", 60), ("UTC+2", 120), ("-03:30", -210), ("+0530", 330), ("etc/utc", 0)],
)
def test_zones_are_found_by_name(name: str, offset: int) -> None:
    assert DateTime(2026, 1, 1, tzinfo=zone(name)).offset == offset


def test_without_a_name_the_machine_s_zone_counts() -> None:
    assert datetime.now(zone("")).utcoffset() == datetime.now().astimezone().utcoffset()
    assert isinstance(zone(""), timezone)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: zone("Europe/Nowhere"), "unknown time zone 'Europe/Nowhere'"),
        (lambda: zone("../../etc/passwd"), "unknown time zone"),
        (lambda: AT.plus(dayz=1), "unknown unit 'dayz'; there are: year"),
        (lambda: AT.plus(months=0.5), "can only be added whole"),
        (lambda: AT.startOf("era"), "unknown unit 'era'"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_says_so(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


def test_a_duration_is_of_a_type_that_means_one() -> None:
    with pytest.raises(TypeError, match="a dict of units"):
        AT.plus("1 day")
