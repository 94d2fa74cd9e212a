"""The claim ledger: every checkable statement of the chapter, with its verdict (claims.toml)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

VERDICTS = ("right", "imprecise", "wrong", "open")

# What can decide a claim; a row may need several.
CHECKS = {
    "B": "exact bytes on ranks",
    "N": "numbers equal on ranks",
    "F": "arithmetic",
    "R": "published measurements",
    "S": "data sheet or source code",
    "G": "two or more GPUs",
    "M": "two or more nodes",
    "C": "the literature",
}


@dataclass(frozen=True)
class Claim:
    """One row. Raises ValueError for an unknown verdict or check, and for a verdict that nothing decides."""

    id: str  # section letter and number: T9
    section: str  # of the chapter: 7.3
    claim: str  # in our own words
    check: str  # letters of CHECKS, separated by commas
    verdict: str  # one of VERDICTS
    correction: str  # what to say instead, or beside it; may be empty where the claim is right
    source: str  # addresses or papers that were read; may be empty where decided_by is not
    decided_by: str  # tests (tests/...py::test_...) and cells (labs/...ipynb#anchor), "; " between them

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.id}: verdict={self.verdict!r}; allowed: {', '.join(VERDICTS)}")
        unknown = [letter for letter in self.check.split(",") if letter not in CHECKS]
        if unknown:
            raise ValueError(f"{self.id}: check={self.check!r}; allowed: {', '.join(CHECKS)}")
        if not self.claim.strip():
            raise ValueError(f"{self.id}: the claim is empty")
        if self.verdict in ("imprecise", "wrong") and not self.correction.strip():
            raise ValueError(f"{self.id} is {self.verdict}: a correction is needed")
        if self.settled and not (self.source.strip() or self.decided_by.strip()):
            raise ValueError(f"{self.id} is {self.verdict}: a source or decided_by is needed")
        if not self.settled and self.decided_by:
            raise ValueError(f"{self.id} is open, yet decided_by={self.decided_by!r}")

    @property
    def deciders(self) -> tuple[str, ...]:
        """decided_by, one by one."""
        return tuple(one.strip() for one in self.decided_by.split(";") if one.strip())

    @property
    def settled(self) -> bool:
        """True where the verdict is not 'open'."""
        return self.verdict != "open"


@cache
def load() -> tuple[Claim, ...]:
    """All claims, section by section. Raises ValueError for a row with unknown, missing or repeated parts."""
    text = files("shardlab.theory").joinpath("claims.toml").read_text(encoding="utf-8")
    return parse(text)


def parse(text: str) -> tuple[Claim, ...]:
    """The claims of a TOML document of [[claim]] tables."""
    expected = {field.name for field in fields(Claim)}
    claims: list[Claim] = []
    for row in tomllib.loads(text)["claim"]:
        if set(row) != expected:
            odd = ", ".join(sorted(expected ^ set(row)))
            raise ValueError(f"{row.get('id', 'a claim without id')}: unknown or missing: {odd}")
        claims.append(Claim(**row))
    ids = [claim.id for claim in claims]
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        raise ValueError(f"claims that appear more than once: {', '.join(twice)}")
    return tuple(claims)
