"""Each seeded mistake is noticed by the tests that the table names.

CI draws a few by SHARDLAB_MUTANTS=<seed> (0 by default). SHARDLAB_MUTANTS=all, which `make mutants` sets, takes every
one, and first lets the same tests pass without any.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.mutant import SOURCE, Mutant, run
from tests.mutants.table import FEW, MUTANTS, sample

DRAWN = os.environ.get("SHARDLAB_MUTANTS", "0")
CHOSEN = MUTANTS if DRAWN == "all" else sample(int(DRAWN))
# Files in which a mistake shows beyond rank 0 alone: five mutants each, one of them so. And all of parallel/.
FIVE = (
    "comm/collectives.py",
    "layers/embedding.py",
    "layers/linear.py",
    "layers/sharding.py",
    "theory/degrees.py",
    "theory/ledger.py",
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_table_is_of_todays_code(mutant: Mutant) -> None:
    compile(mutant.patched(), mutant.file, "exec")
    assert mutant.tests


def test_no_mutant_is_there_twice() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


def test_sharded_files_have_five_and_one_that_rank_0_does_not_show() -> None:
    parallel = [f"parallel/{path.name}" for path in (SOURCE / "shardlab" / "parallel").glob("[!_]*.py")]
    for file in (*FIVE, *parallel):
        own = [mutant for mutant in MUTANTS if mutant.file == file]
        assert len(own) >= 5 and any(mutant.elsewhere for mutant in own), file


@pytest.mark.parametrize("seed", range(10))
def test_a_sample_is_of_different_files(seed: int) -> None:
    drawn = sample(seed)
    assert max(Counter(mutant.file for mutant in drawn).values()) == 1
    assert len(drawn) == FEW and any(mutant.elsewhere for mutant in drawn)


if DRAWN == "all":  # in CI the suite itself runs these tests

    @pytest.mark.ranks
    @pytest.mark.timeout(600)
    def test_without_a_mistake_the_tests_pass(tmp_path: Path) -> None:
        tests = tuple(dict.fromkeys(test for mutant in MUTANTS for test in mutant.tests))
        verdict = run(tests, tmp_path)
        assert verdict.failed == verdict.broken == (), verdict.output


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutant", CHOSEN, ids=str)
def test_a_mistake_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    verdict = run(mutant.tests, tmp_path, mutant)
    assert verdict.broken == (), verdict.output
    unmoved = [test for test in mutant.tests if not verdict.noticed(test)]
    assert unmoved == [], verdict.output
