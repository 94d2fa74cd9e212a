"""The cost model on published all-reduces that it was not fitted to, beside NCCL's own model and the plain line.

Nothing is measured here: the tables are labs/published, the protocol is shardlab.compare.errors.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import Row
from shardlab.compare import errors as compare_published
from shardlab.compare.errors import Errors, overall

_MIN = 0.12
_WANTED = "<= 12 % geomean"


def rows() -> list[Row]:
    ours = _held_out(compare_published.published_errors())
    line = {one.name: one for one in _held_out(compare_published.line_errors())}
    nccl = {one.name: one for one in _held_out(compare_published.nccl_errors())}
    error = overall(ours)
    within = sum(one.geomean <= _MIN for one in ours)
    found = [
        Row(
            "C10",
            f"cost model on {len(ours)} published all-reduce tables that it was not fitted to, all rows",
            f"{error:.1%}; {within} of {len(ours)} tables within 12 %; plain line {overall(line.values()):.1%}",
            _WANTED,
            error <= _MIN,
        )
    ]
    theirs = [one for one in ours if one.name in nccl]
    beside = f"{overall(theirs):.1%} against {overall(nccl.values()):.1%}"
    found.append(Row("", "of these the tables of NCCL, against NCCL's own model", beside))
    for one in ours:
        beside = f"; line {line[one.name].geomean:.1%}"
        if one.name in nccl:
            beside += f"; NCCL's model {nccl[one.name].geomean:.1%}"
        signed = " ".join(f"{each:+.0%}" for each in one.signed)
        found.append(Row("C10", one.name, f"{one.geomean:.1%}{beside}; signed {signed}", _WANTED, one.geomean <= _MIN))
    return found


def _held_out(errors: Sequence[Errors]) -> list[Errors]:
    return [one for one in errors if one.held_out]
