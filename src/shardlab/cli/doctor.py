"""`shardlab doctor`."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Say what this machine can run and measure, what is missing, and what to do."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from shardlab.cli import examine as physician

    findings: list[physician.Finding] = []
    console = Console()
    with console.status("looking ..."):
        for finding in physician.examine():
            findings.append(finding)
    colors = {"ok": "green", "without": "yellow", "missing": "red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        words = Text(finding.text)
        if finding.advice:
            words.append(f"\n{finding.advice}", style="dim")
        table.add_row(Text(finding.state, style=colors[finding.state]), finding.what, words)
    console.print(table)
    console.print()
    console.print(Text("topology", style="bold"))
    for line in physician.topology():
        console.print(Padding(Text(line), (0, 0, 0, 2)))
    console.print()
    console.print(physician.summary(findings))
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
