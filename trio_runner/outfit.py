"""What a zygote is told about an environment: where modules lie, which may be imported, and which come ahead.

Pure decisions, no processes. Two cases: the packages of a program that asked for them (`isolated`: they and the
standard library are all there is), and those that the operator adds for every program (`extended`).
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import msgspec

from trio_runner.envstore import Built
from trio_runner.sandbox.policy import ALL, Confinement, Policy
from trio_runner.sandbox.records import preload_list


class Outfit(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a zygote's `Setup` that an environment decides."""

    policy: Policy
    confinement: Confinement
    preload: tuple[str, ...]
    path: tuple[str, ...] | None = None
    confined_preload: tuple[str, ...] = ()


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What holds without any environment. ``preload`` is the operator's choice, None for what is allowed by name."""

    policy: Policy
    confinement: Confinement
    preload: tuple[str, ...] | None = None
    opens_network: bool = False


def isolated(terms: Terms, built: Built, *, vouched: bool) -> Outfit:
    """For one program's packages. ``vouched``: the operator has named each of them.

    The zygote is not confined, so that what an author merely wished for is not imported there: each child imports it,
    confined already, while it waits. Nor does an author's wish open the network.
    """
    modules = built.about.modules
    policy = terms.policy
    if ALL not in policy.external_allow:
        policy = msgspec.structs.replace(policy, external_allow=frozenset(modules))
    ahead = tuple(modules if terms.preload is None else (name for name in modules if name in terms.preload))
    standard = msgspec.structs.replace(policy, external_allow=frozenset())
    named = msgspec.structs.replace(policy, external_allow=frozenset(ahead))
    chosen = None if terms.preload is None else tuple(n for n in terms.preload if n in sys.stdlib_module_names)
    before_the_fork = preload_list(named, None) if vouched and chosen is None else preload_list(standard, chosen)
    if vouched and chosen is not None:
        before_the_fork += ahead
    return Outfit(
        policy=policy,
        confinement=_reading_ours(_confinement(terms, policy, vouched=vouched)),
        preload=before_the_fork,
        path=(*_standard_path(), built.site),
        confined_preload=() if vouched else ahead,
    )


def extended(terms: Terms, built: Built) -> Outfit:
    """For all programs: beside what is installed with the runner, and before it where both have a package."""
    policy = terms.policy
    if ALL not in policy.external_allow:
        policy = msgspec.structs.replace(policy, external_allow=policy.external_allow | frozenset(built.about.modules))
    standard = _standard_path()
    return Outfit(
        policy=policy,
        confinement=_confinement(terms, policy, vouched=True),
        preload=preload_list(policy, terms.preload),
        path=(*standard, built.site, *(place for place in sys.path if place not in standard)),
    )


def _confinement(terms: Terms, policy: Policy, *, vouched: bool) -> Confinement:
    if vouched and terms.opens_network and policy.needs_network:
        return msgspec.structs.replace(terms.confinement, mode="network")
    return terms.confinement


def _reading_ours(confinement: Confinement) -> Confinement:
    """Our own modules are not on the path, and a child may still have to load one."""
    ours = {str(Path(place).parent) for place in (__file__, msgspec.__file__)}
    return msgspec.structs.replace(confinement, read=(*confinement.read, *sorted(ours)))


def _standard_path() -> tuple[str, ...]:
    """Where the standard library lies."""
    roots = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}

    def standard(place: str) -> bool:
        path = Path(place)
        installed = {"site-packages", "dist-packages"}.isdisjoint(path.parts)
        return path.suffix == ".zip" or (installed and any(path.is_relative_to(root) for root in roots))

    return tuple(place for place in sys.path if place and standard(place))
