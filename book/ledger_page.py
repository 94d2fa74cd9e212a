"""The claim ledger as a page: shardlab.theory.claims -> book/ledger.md, written anew at every build."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from html import escape as html_escape
from pathlib import Path

import nbformat

from shardlab.theory.claims import CHECKS, VERDICTS, Claim, load

# verdict -> (colour of sphinx-design's badge, what it means)
MEANING = {
    "right": ("success", "stands as written"),
    "imprecise": ("warning", "true in part: a condition, a unit or a factor is missing"),
    "wrong": ("danger", "does not stand; the correction says what does"),
    "open": ("muted", "not decided yet"),
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
    "7.9": "Where the ideas come from",
}
INTRO = """# The claim ledger

A chapter on scaling inference makes many statements that can be checked. Here each one stands in our words,
with a verdict and with what decided it. A verdict is not an opinion. A test, a lab cell or a source that you
can open decides.
"""
_URL = re.compile(r"(https?://[^\s,;)\]]+)")


def escape(text: str) -> str:
    """Plain text -> MyST that shows exactly that text."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~^])", r"\\\1", " ".join(text.split()))


def badge(verdict: str) -> str:
    return f"{{bdg-{MEANING[verdict][0]}}}`{verdict}`"


def source_html(text: str) -> str:
    """A source in HTML, with its addresses made clickable and shown without the scheme."""
    parts = _URL.split(text.strip())
    return "".join(
        f'<a href="{html_escape(part)}">{html_escape(part.split("://")[1])}</a>' if number % 2 else html_escape(part)
        for number, part in enumerate(parts)
    )


def decider_html(text: str, labs: dict[str, str]) -> str:
    """A test, or a lab's cell: a link where the lab is in this book and has the anchor. Long names break."""
    path, _, anchor = text.strip().partition("#")
    shown = re.sub(r"(::|/|_)", r"\1<wbr>", html_escape(text.strip()))
    lab = Path(path)
    if lab.suffix == ".ipynb" and anchor and anchor in labs.get(lab.name, ""):
        return f'<a href="../labs/{lab.stem}.html#{anchor}">{lab.stem}: {html_escape(anchor)}</a>'
    return f"<code>{shown}</code>"


def decided(claim: Claim, labs: dict[str, str]) -> str:
    """What decided the claim, as a list in one line of HTML; for an open one, what it waits for."""
    items = [f"decided by {decider_html(one, labs)}" for one in claim.decided_by.split(";") if one.strip()]
    items += [f"source: {source_html(one)}" for one in claim.source.split(";") if one.strip()]
    if not items:
        items = ["waits for: " + ", ".join(CHECKS[letter] for letter in claim.check.split(","))]
    return '<ul class="decided">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def rows(claims: Iterable[Claim], labs: dict[str, str]) -> str:
    lines = [":::{list-table}", ":header-rows: 1", ":widths: 40 60", ":class: ledger", ""]
    lines += ["* - The chapter says", "  - Verdict"]
    for claim in claims:
        lines += [
            f"* - **{escape(claim.id)}** {escape(claim.claim)}",
            f"  - {badge(claim.verdict)} {escape(claim.correction)}".rstrip(),
            "",
            f"    {decided(claim, labs)}",
        ]
    return "\n".join([*lines, ":::"])


def page(claims: Iterable[Claim], labs: dict[str, str]) -> str:
    """-> the whole page in MyST. labs: name of a notebook in this book -> its text, to look up anchors."""
    claims = list(claims)
    counts = Counter(claim.verdict for claim in claims)
    legend = [
        f"- {badge(verdict)} {counts[verdict]} of {len(claims)}: {MEANING[verdict][1]}"
        for verdict in VERDICTS
        if counts[verdict]
    ]
    parts = [INTRO, "\n".join(legend)]
    for section in sorted({claim.section for claim in claims}):
        parts.append(f"## {section} {SECTIONS.get(section, '')}".rstrip())
        parts.append(rows((claim for claim in claims if claim.section == section), labs))
    return "\n\n".join(parts) + "\n"


def write(target: Path, notebooks: Iterable[Path]) -> None:
    """Write the page of all claims. notebooks: the labs that this book has."""
    labs = {path.name: "\n".join(cell.source for cell in nbformat.read(path, 4).cells) for path in notebooks}
    target.write_text(page(load(), labs))
