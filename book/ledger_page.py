"""The claim ledger as a page: src/shardlab/theory/claims.toml -> book/ledger.md, written anew at every build.

A claim is a table with the keys id, section, claim, check, verdict, correction, source, decided_by. The last three
may be missing or empty; source and decided_by may be lists.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# verdict -> (badge role of sphinx-design, what it means)
VERDICTS = {
    "right": ("success", "stands as written"),
    "imprecise": ("warning", "true in part: a condition, a unit or a factor is missing"),
    "wrong": ("danger", "does not stand; the correction says what does"),
    "open": ("secondary", "not decided yet"),
}
CHECKS = {
    "B": "bytes counted exactly, on CPU ranks",
    "N": "numbers compared, on CPU ranks",
    "F": "formula, by a test",
    "R": "against published measurements",
    "S": "spec sheet",
    "G": "needs two GPUs or more",
    "M": "needs two nodes or more",
    "C": "what a paper says",
}
SECTIONS = {
    "7.1": "Interconnects",
    "7.2": "Data parallelism",
    "7.3": "Tensor parallelism",
    "7.4": "Pipeline parallelism",
    "7.5": "Expert parallelism",
    "7.6": "Context and sequence parallelism",
    "7.7": "Cost",
    "7.8": "Multi-node",
    "7.9": "Where it comes from",
}
INTRO = """# The claim ledger

A chapter on scaling inference makes many statements that can be checked. Here each one stands in our words, with a
verdict and with what decided it. A verdict is not an opinion: a test, a lab cell or a source that you can open
decides.
"""


def escape(text: str) -> str:
    """Plain text -> MyST that shows exactly that text, with addresses made clickable."""
    parts = re.split(r"(https?://[^\s,;)\]]+)", " ".join(text.split()))
    return "".join(
        f"<{part}>" if number % 2 else re.sub(r"([\\`*_{}\[\]<>#|$~^])", r"\\\1", part)
        for number, part in enumerate(parts)
    )


def as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) and value else list(value or [])


def badge(verdict: str) -> str:
    if verdict not in VERDICTS:
        raise ValueError(f"verdict {verdict!r} is not one of {', '.join(VERDICTS)}")
    return f"{{bdg-{VERDICTS[verdict][0]}}}`{verdict}`"


def decided(claim: dict[str, Any]) -> str:
    """What decides the claim: the tests or cells, then the sources; without either, the kind of check it waits for."""
    tests = [f"`{one}`" for one in as_list(claim.get("decided_by"))]
    sources = [escape(one) for one in as_list(claim.get("source"))]
    waits = [CHECKS.get(letter.strip(), escape(letter)) for letter in re.split(r"[,\s]+", claim["check"])]
    return "<br>".join(tests + sources) or "; ".join(waits)


def rows(claims: Iterable[dict[str, Any]]) -> str:
    lines = [
        ":::{list-table}",
        ":header-rows: 1",
        ":widths: 40 36 24",
        ":class: ledger",
        "",
        "* - Claim",
        "  - Verdict",
        "  - Decided by",
    ]
    for claim in claims:
        correction = escape(claim.get("correction") or "")
        lines += [
            f"* - **{escape(claim['id'])}** {escape(claim['claim'])}",
            f"  - {badge(claim['verdict'])} {correction}".rstrip(),
            f"  - {decided(claim)}",
        ]
    return "\n".join([*lines, ":::"])


def page(claims: list[dict[str, Any]]) -> str:
    """-> the whole page in MyST. Raises KeyError or ValueError for a claim that cannot be shown."""
    if not claims:
        return INTRO + "\nNo claim has been entered yet.\n"
    counts = Counter(claim["verdict"] for claim in claims)
    legend = [
        f"- {badge(verdict)} {counts[verdict]} of {len(claims)}: {meaning}"
        for verdict, (_, meaning) in VERDICTS.items()
        if counts[verdict]
    ]
    parts = [INTRO, "\n".join(legend)]
    for section in sorted({str(claim["section"]) for claim in claims}):
        parts.append(f"## {section} {SECTIONS.get(section, '')}".rstrip())
        parts.append(rows(claim for claim in claims if str(claim["section"]) == section))
    return "\n\n".join(parts) + "\n"


def load(path: Path) -> list[dict[str, Any]]:
    """claims.toml -> its claims in file order: an array of tables named claim or claims. No file: none."""
    if not path.exists():
        return []
    data = tomllib.loads(path.read_text())
    return list(data.get("claim") or data.get("claims") or [])


def write(claims: Path, target: Path) -> None:
    target.write_text(page(load(claims)))
