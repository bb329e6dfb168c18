"""``_now`` and ``_today``: an aware datetime that also understands what users of Luxon write.

Owns the date arithmetic that Python's datetime lacks (months, starts and ends of units, format tokens). Must not know
where the time zone comes from. It *is* a datetime, so that everything that takes one takes it.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final

_UNITS: Final = ("year", "quarter", "month", "week", "day", "hour", "minute", "second", "millisecond")
_ALIASES: Final = {f"{unit}s": unit for unit in _UNITS} | {unit: unit for unit in _UNITS}
_EXACT: Final = {"hour": 3600.0, "minute": 60.0, "second": 1.0, "millisecond": 0.001}
"""Units of elapsed time, in seconds. The others are units of the calendar: a day may have 23 hours."""
_MAX_NAME: Final = 60


def zone(name: str) -> tzinfo:
    """The time zone of this IANA name, or the machine's when there is no name. Raises ValueError for an unknown one."""
    if not name:
        return datetime.now().astimezone().tzinfo or UTC
    if name.lower() in ("utc", "etc/utc", "gmt"):
        return UTC
    if match := re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?", name):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
        return timezone(-offset if match[1] == "-" else offset)
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name[:_MAX_NAME]!r}") from None


class _FromZone:
    """A function that makes a date, by the clock of the date that it is asked of (`_now` has the workflow's), else UTC.

    In JavaScript ``DateTime.fromISO`` knows the zone of the workflow; Python has no class of that kind, only `_now`.
    """

    def __init__(self, function: Callable[..., DateTime]) -> None:
        self._function = function

    def __get__(self, moment: DateTime | None, _owner: type[DateTime]) -> Callable[..., DateTime]:
        here = UTC if moment is None or moment.tzinfo is None else moment.tzinfo

        def made(*args: Any, **options: Any) -> DateTime:
            return self._function(here, *args, **options)

        return made


def _zone_of(options: dict[str, Any] | None, here: tzinfo) -> tzinfo:
    name = (options or {}).get("zone")
    return here if name is None else zone(name)


def _from_iso(here: tzinfo, text: str, options: dict[str, Any] | None = None) -> DateTime:
    """The moment that an ISO text names, by the clock of ``{"zone": …}`` or of here; ``{"setZone": True}``: its own."""
    moment = datetime.fromisoformat(text)
    there = _zone_of(options, here)
    if moment.tzinfo is None:
        return DateTime.of(moment.replace(tzinfo=there))
    return DateTime.of(moment if (options or {}).get("setZone") else moment.astimezone(there))


def _from_millis(here: tzinfo, millis: float, options: dict[str, Any] | None = None) -> DateTime:
    """The moment this many milliseconds after 1970, by the clock of ``{"zone": …}`` or of here."""
    return DateTime.of(datetime.fromtimestamp(millis / 1000, _zone_of(options, here)))


class DateTime(datetime):
    """An aware datetime with the common methods of Luxon. ``str()`` is ISO 8601 with milliseconds, as in JavaScript.

    Where both have a name (``year``, ``weekday()``, ``replace()``, ``timestamp()``), it means what Python means by it.
    """

    __slots__ = ()

    @classmethod
    def of(cls, moment: datetime) -> DateTime:
        """This class's form of an aware datetime."""
        return cls(
            moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second, moment.microsecond,
            moment.tzinfo, fold=moment.fold,
        )  # fmt: skip

    fromISO = _FromZone(_from_iso)
    fromMillis = _FromZone(_from_millis)

    def plus(self, duration: object = None, unit: str | None = None, **units: float) -> DateTime:
        """Later by ``days=1``, ``{"months": 2}``, ``(7, "days")``, milliseconds or a timedelta."""
        return self._moved(_amounts(duration, unit, units), 1)

    def minus(self, duration: object = None, unit: str | None = None, **units: float) -> DateTime:
        """Earlier by the same."""
        return self._moved(_amounts(duration, unit, units), -1)

    def _moved(self, amounts: dict[str, float], sign: int) -> DateTime:
        months = sign * (amounts["year"] * 12 + amounts["quarter"] * 3 + amounts["month"])
        if months != int(months):
            raise ValueError("years, quarters and months can only be added whole")
        year, month = divmod(self.year * 12 + self.month - 1 + int(months), 12)
        day = min(self.day, calendar.monthrange(year, month + 1)[1])
        moved: datetime = self.replace(year=year, month=month + 1, day=day)
        moved += timedelta(days=sign * (amounts["week"] * 7 + amounts["day"]))  # by the calendar: the clock stays
        seconds = sign * sum(amounts[unit] * size for unit, size in _EXACT.items())
        # elapsed time counts in UTC; a time that the clock skips becomes one that it shows
        return DateTime.of((moved.astimezone(UTC) + timedelta(seconds=seconds)).astimezone(self.tzinfo))

    def set(self, values: dict[str, int] | None = None, **units: int) -> DateTime:
        """With other years, months, days, hours, minutes, seconds or milliseconds."""
        changes: dict[str, int] = {}
        for name, value in {**(values or {}), **units}.items():
            unit = _unit(name)
            if unit in ("week", "quarter"):
                raise ValueError(f"{unit} cannot be set")
            changes |= {"microsecond": value * 1000} if unit == "millisecond" else {unit: value}
        last = calendar.monthrange(changes.get("year", self.year), changes.get("month", self.month))[1]
        return self.replace(**{"day": min(self.day, last), **changes})  # type: ignore[arg-type]

    def startOf(self, unit: str) -> DateTime:
        """The beginning of the year, quarter, month, week, day, hour, minute or second that it is in."""
        unit = _unit(unit)
        start: DateTime = self.replace(microsecond=self.microsecond // 1000 * 1000)
        for name, first in (("second", "microsecond"), ("minute", "second"), ("hour", "minute"), ("day", "hour")):
            if unit == "millisecond":
                return start
            start = start.replace(**{first: 0})  # type: ignore[arg-type]
            if unit == name:
                return start
        if unit == "week":
            return DateTime.of(start - timedelta(days=self.weekday()))
        month = {"year": 1, "quarter": (self.month - 1) // 3 * 3 + 1}.get(unit, self.month)
        return start.replace(month=month, day=1)

    def endOf(self, unit: str) -> DateTime:
        """The last millisecond of the same."""
        unit = _unit(unit)
        return self.startOf(unit).plus({unit: 1}).minus(milliseconds=1)

    def diff(self, other: datetime, unit: str | list[str] = "milliseconds") -> Duration:
        """How much later it is than ``other``, in one unit."""
        if not isinstance(unit, str):
            (unit,) = unit
        return Duration(_unit(unit), _difference(self, other, _unit(unit)))

    def diffNow(self, unit: str = "milliseconds") -> Duration:
        """How much later it is than now."""
        return self.diff(datetime.now(UTC), unit)

    def hasSame(self, other: datetime, unit: str) -> bool:
        """Whether both are in the same year, month, …, by this one's clock."""
        return self.startOf(unit) == DateTime.of(other.astimezone(self.tzinfo)).startOf(unit)

    def setZone(self, name: str) -> DateTime:
        """The same moment by the clock of another zone."""
        return DateTime.of(self.astimezone(zone(name)))

    def toUTC(self) -> DateTime:
        """The same moment in UTC."""
        return DateTime.of(self.astimezone(UTC))

    def toISO(self) -> str:
        """As in ``2026-11-21T16:05:09.123+01:00``."""
        text = self.isoformat(timespec="milliseconds")
        return f"{text[:-6]}Z" if self.tzinfo is UTC else text

    def toISODate(self) -> str:
        """As in ``2026-11-21``."""
        return self.date().isoformat()

    def toISOTime(self) -> str:
        """As in ``16:05:09.123+01:00``."""
        return self.toISO().partition("T")[2]

    def toMillis(self) -> int:
        """Milliseconds since 1970."""
        return (self - DateTime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)

    valueOf = toMillis

    def toSeconds(self) -> float:
        """Seconds since 1970."""
        return self.toMillis() / 1000

    def toUnixInteger(self) -> int:
        """Whole seconds since 1970."""
        return self.toMillis() // 1000

    def toJSDate(self) -> DateTime:
        """Itself."""
        return self

    def toFormat(self, pattern: str) -> str:
        """By Luxon's tokens: ``yyyy-MM-dd HH:mm``, text in 'single quotes' as it is."""
        return _TOKENS.sub(lambda match: _token(self, match[0]), pattern)

    format = toFormat

    def __str__(self) -> str:
        return self.toISO()

    toString = toJSON = __str__

    @property
    def millisecond(self) -> int:
        """0 to 999."""
        return self.microsecond // 1000

    @property
    def quarter(self) -> int:
        """1 to 4."""
        return (self.month + 2) // 3

    @property
    def weekNumber(self) -> int:
        """The ISO week, 1 to 53."""
        return self.isocalendar().week

    @property
    def weekYear(self) -> int:
        """The year that the ISO week belongs to."""
        return self.isocalendar().year

    @property
    def ordinal(self) -> int:
        """The day of the year, 1 to 366."""
        return self.timetuple().tm_yday

    @property
    def daysInMonth(self) -> int:
        """28 to 31."""
        return calendar.monthrange(self.year, self.month)[1]

    @property
    def zoneName(self) -> str:
        """As in ``Europe/Berlin``."""
        return str(self.tzinfo)

    @property
    def offset(self) -> int:
        """Minutes ahead of UTC."""
        return int((self.utcoffset() or timedelta()).total_seconds() // 60)

    @property
    def isValid(self) -> bool:
        """Always."""
        return True


class Duration:
    """A number of one unit: ``.days`` is the number, and so are ``.as_(unit)`` and ``.toObject()`` in their ways."""

    __slots__ = ("_amount", "_unit")

    def __init__(self, unit: str, amount: float) -> None:
        self._unit = unit
        self._amount = int(amount) if amount == int(amount) else amount

    def __getattr__(self, name: str) -> float:
        if name in _ALIASES:
            return self._amount if _ALIASES[name] == self._unit else 0
        raise AttributeError(f"a duration has no '{name[:_MAX_NAME]}'")

    def toObject(self) -> dict[str, float]:
        """As in ``{"days": 3}``."""
        return {f"{self._unit}s": self._amount}

    def toMillis(self) -> float:
        """As milliseconds; only of what has a fixed length."""
        seconds = {**_EXACT, "day": 86_400.0, "week": 604_800.0}
        if self._unit not in seconds:
            raise ValueError(f"a {self._unit} has no fixed length")
        return self._amount * seconds[self._unit] * 1000

    valueOf = toMillis

    def __float__(self) -> float:
        return float(self._amount)

    def __repr__(self) -> str:
        return f"{self._amount} {self._unit}s"


def _unit(name: str) -> str:
    unit = _ALIASES.get(name)
    if unit is None:
        raise ValueError(f"unknown unit {name!r:.{_MAX_NAME}}; there are: {', '.join(_UNITS)}")
    return unit


def _amounts(duration: object, unit: str | None, units: dict[str, float]) -> dict[str, float]:
    amounts: dict[str, float] = dict.fromkeys(_UNITS, 0)
    given: dict[str, Any] = dict(units)
    if isinstance(duration, timedelta):
        amounts["second"] += duration.total_seconds()
    elif isinstance(duration, Duration):
        given |= duration.toObject()
    elif isinstance(duration, dict):
        given |= duration
    elif isinstance(duration, int | float):
        amounts[_unit(unit or "millisecond")] += duration
    elif duration is not None:
        raise TypeError("a duration is a dict of units, a number of milliseconds or a timedelta")
    for name, amount in given.items():
        amounts[_unit(name)] += amount
    return amounts


def _difference(later: DateTime, earlier: datetime, unit: str) -> float:
    start = DateTime.of(earlier.astimezone(later.tzinfo))
    if unit in _EXACT:  # in UTC: by the clock of a zone, an hour may be missing
        return (later.toUTC() - start.toUTC()) / timedelta(seconds=_EXACT[unit])
    if unit in ("day", "week"):
        wall = later.replace(tzinfo=None) - start.replace(tzinfo=None)
        return wall / timedelta(days=7 if unit == "week" else 1)
    size = {"year": 12, "quarter": 3, "month": 1}[unit]
    whole = int(((later.year - start.year) * 12 + later.month - start.month) / size)
    while start.plus(months=whole * size) > later:
        whole -= 1
    base = start.plus(months=whole * size)
    return whole + (later.toUTC() - base.toUTC()) / (start.plus(months=(whole + 1) * size).toUTC() - base.toUTC())


_FORMATS: Final[dict[str, Callable[[DateTime], str]]] = {
    "yyyy": lambda d: f"{d.year:04}", "yy": lambda d: f"{d.year % 100:02}", "y": lambda d: str(d.year),
    "MMMM": lambda d: calendar.month_name[d.month], "LLLL": lambda d: calendar.month_name[d.month],
    "MMM": lambda d: calendar.month_abbr[d.month], "LLL": lambda d: calendar.month_abbr[d.month],
    "MM": lambda d: f"{d.month:02}", "LL": lambda d: f"{d.month:02}",
    "M": lambda d: str(d.month), "L": lambda d: str(d.month),
    "dd": lambda d: f"{d.day:02}", "d": lambda d: str(d.day),
    "EEEE": lambda d: calendar.day_name[d.weekday()], "cccc": lambda d: calendar.day_name[d.weekday()],
    "EEE": lambda d: calendar.day_abbr[d.weekday()], "ccc": lambda d: calendar.day_abbr[d.weekday()],
    "E": lambda d: str(d.isoweekday()), "c": lambda d: str(d.isoweekday()),
    "HH": lambda d: f"{d.hour:02}", "H": lambda d: str(d.hour),
    "hh": lambda d: f"{d.hour % 12 or 12:02}", "h": lambda d: str(d.hour % 12 or 12),
    "mm": lambda d: f"{d.minute:02}", "m": lambda d: str(d.minute),
    "ss": lambda d: f"{d.second:02}", "s": lambda d: str(d.second),
    "SSS": lambda d: f"{d.millisecond:03}", "S": lambda d: str(d.millisecond),
    "a": lambda d: "AM" if d.hour < 12 else "PM",
    "ZZZ": lambda d: f"{d:%z}", "ZZ": lambda d: f"{d:%z}"[:3] + ":" + f"{d:%z}"[3:], "z": lambda d: d.zoneName,
    "WW": lambda d: f"{d.weekNumber:02}", "W": lambda d: str(d.weekNumber), "kkkk": lambda d: str(d.weekYear),
    "ooo": lambda d: f"{d.ordinal:03}", "o": lambda d: str(d.ordinal), "q": lambda d: str(d.quarter),
    "X": lambda d: str(d.toUnixInteger()), "x": lambda d: str(d.toMillis()),
}  # fmt: skip

_TOKENS: Final = re.compile(r"'[^']*'|([A-Za-z])\1*")


def _token(moment: DateTime, token: str) -> str:
    if token.startswith("'"):
        return token[1:-1]
    return _FORMATS[token](moment) if token in _FORMATS else token
