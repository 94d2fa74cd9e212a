"""The claim ledger's form: every row complete, every settled row decided by something that exists."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from shardlab.theory import claims

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = claims.load()
BY_ID = {claim.id: claim for claim in CLAIMS}
ROW = """
[[claim]]
id = "T1"
section = "7.3"
claim = "Something."
check = "F"
verdict = "right"
correction = ""
source = "a book"
decided_by = ""
"""


def test_every_row_of_the_ledger_is_there() -> None:
    wanted = {"I": 15, "D": 4, "T": 12, "P": 8, "E": 9, "C": 13, "A": 9, "M": 11}
    assert {f"{letter}{n}" for letter, last in wanted.items() for n in range(1, last + 1)} == set(BY_ID)


def test_every_claim_on_tensor_parallelism_is_settled() -> None:
    assert [claim.id for claim in CLAIMS if claim.id.startswith("T") and not claim.settled] == []


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_texts_are_short_and_plain(claim: claims.Claim) -> None:
    assert len(claim.claim) <= 120
    assert len(claim.correction) <= 320
    assert re.fullmatch(r"7\.[1-9]", claim.section)
    for text in (claim.claim, claim.correction):
        assert text == text.strip()
        assert not text or text.endswith("."), claim.id


def missing_test(decided_by: str, root: Path) -> str:
    """'' where the test function exists, else what is missing. Reads the file and runs nothing."""
    file, _, name = decided_by.partition("::")
    path = root / file
    if not path.is_file():
        return f"{file} does not exist"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return "" if name in functions and name.startswith("test_") else f"{file} has no {name}"


def missing_anchor(decided_by: str, root: Path) -> str:
    """'' where the notebook has '(anchor)=' (a MyST label) or a cell with that tag, or is not there yet."""
    file, _, anchor = decided_by.partition("#")
    path = root / file
    if not path.is_file():
        return ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        lines = "".join(cell["source"]).splitlines()
        if f"({anchor})=" in lines or anchor in cell["metadata"].get("tags", []):
            return ""
    return f"{file} has no ({anchor})="


@pytest.mark.parametrize(("number", "decider"), [(claim.id, decider) for claim in CLAIMS for decider in claim.deciders])
def test_what_decides_a_claim_exists(number: str, decider: str) -> None:
    missing = missing_anchor if decider.startswith("labs/") else missing_test
    assert missing(decider, ROOT) == "", number


def test_a_missing_test_or_anchor_is_noticed(tmp_path: Path) -> None:
    here = Path(__file__).relative_to(ROOT).as_posix()
    assert missing_test(f"{here}::test_a_missing_test_or_anchor_is_noticed", ROOT) == ""
    assert "has no" in missing_test(f"{here}::test_gone", ROOT)
    assert "has no" in missing_test(f"{here}::missing_test", ROOT)
    assert "does not exist" in missing_test("tests/gone.py::test_gone", ROOT)
    cells = [
        {"source": ["Text\n", "(claim-t1)=\n"], "metadata": {}},
        {"source": [], "metadata": {"tags": ["claim-t2"]}},
    ]
    (tmp_path / "lab.ipynb").write_text(json.dumps({"cells": cells}))
    assert missing_anchor("lab.ipynb#claim-t1", tmp_path) == ""
    assert missing_anchor("lab.ipynb#claim-t2", tmp_path) == ""
    assert "has no (claim-t3)=" in missing_anchor("lab.ipynb#claim-t3", tmp_path)


def test_a_good_row_is_read() -> None:
    (claim,) = claims.parse(ROW)
    assert (claim.id, claim.settled) == ("T1", True)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('verdict = "right"', 'verdict = "maybe"', "T1: verdict='maybe'; allowed: right"),
        ('check = "F"', 'check = "F,Z"', "T1: check='F,Z'"),
        ('claim = "Something."', 'claim = " "', "T1: the claim is empty"),
        ('verdict = "right"', 'verdict = "wrong"', "T1 is wrong: a correction is needed"),
        ('verdict = "right"', 'verdict = "imprecise"', "T1 is imprecise: a correction is needed"),
        ('source = "a book"', 'source = ""', "T1 is right: a source or decided_by is needed"),
        ('source = "a book"\n', "", "T1: unknown or missing: source"),
        ('id = "T1"', 'id = "T1"\nnote = ""', "T1: unknown or missing: note"),
    ],
)
def test_a_bad_row_says_what_is_wrong(old: str, new: str, said: str) -> None:
    assert old in ROW
    with pytest.raises(ValueError, match=re.escape(said)):
        claims.parse(ROW.replace(old, new))


def test_an_open_claim_is_not_decided() -> None:
    row = ROW.replace('"right"', '"open"').replace('decided_by = ""', 'decided_by = "tests/x.py::test_x"')
    with pytest.raises(ValueError, match="T1 is open, yet decided_by"):
        claims.parse(row)


def test_an_id_appears_once() -> None:
    with pytest.raises(ValueError, match="more than once: T1"):
        claims.parse(ROW + ROW)
