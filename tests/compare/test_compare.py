"""compare: tables whose text is stable, and a headline that the book can collect."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest

from shardlab import compare
from shardlab.compare.tables import Row, Table
from shardlab.theory import ledger
from shardlab.theory.degrees import Plan
from shardlab.theory.transformer import MODELS


class Cells(HTMLParser):
    """The texts of a table's cells, and every tag in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_the_text_of_a_table() -> None:
    table = compare.table(
        [
            Row("all_reduce, 4 MiB", 6_291_456, 6_300_000),
            Row("logits", 1024, 1024),
            Row("time", 1e-3, 2e-3, "s"),
        ],
        title="On the wire",
    )
    assert repr(table).splitlines() == [
        "On the wire",
        "what                 predicted     measured  residual",
        "-----------------  -----------  -----------  --------",
        "all_reduce, 4 MiB  6,291,456 B  6,300,000 B    +0.1 %",
        "logits                 1,024 B      1,024 B     exact",
        "time                   1.00 ms      2.00 ms  +100.0 %",
    ]


def test_html_has_the_same_cells_no_colours_of_its_own_and_escapes() -> None:
    table = compare.table([Row("<b> & Co.", 1, 2)], title="a < b")
    html = table._repr_html_()
    seen = Cells(html)
    assert seen.cells == ["what", "predicted", "measured", "residual", "<b> & Co.", "1 B", "2 B", "+100.0 %"]
    assert "b" not in seen.tags
    assert seen.open == []
    assert "#" not in html and "rgb" not in html
    assert html.count('scope="col"') == 4


def test_numpy_integers_are_shown_as_bytes() -> None:
    assert "1,024 B" in repr(compare.table([Row("wire", 1024, np.int64(1024))]))  # type: ignore[arg-type]


def test_bytes_table_says_whether_the_record_is_the_prediction() -> None:
    smollm = MODELS["smollm2-135m"]
    predicted = {tp: ledger.forward(smollm, Plan(tp=tp), batch=1, seq=8) for tp in (1, 2, 3)}
    recorded = {1: [], 2: list(predicted[2]), 3: predicted[3][:-1]}
    rows = compare.bytes_table(predicted, recorded).rows
    assert rows == [
        ["T = 1", "none", "0", "0 B", "0 B", "yes"],
        ["T = 2", "all_reduce", "61", "1,124,352 B", "1,124,352 B", "yes"],
        ["T = 2", "all_gather", "1", "1,572,864 B", "786,432 B", "yes"],
        ["T = 3", "all_reduce", "61", "1,124,352 B", "1,499,136 B", "NO"],
        ["T = 3", "all_gather", "1", "1,572,864 B", "1,048,576 B", "NO"],
    ]
    assert "as recorded" not in compare.bytes_table(predicted).columns
    assert compare.bytes_table(predicted, {}).rows[-1][-1] == "NO"


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells in a table of 2 columns"):
        Table(("a", "b"), [("x",)])


def test_headline_is_shown_and_collected() -> None:
    headline = compare.headline(lab="03", what="bytes a token", predicted=28_672, measured=28_672.0, unit="bytes")
    bundle = headline._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.shardlab.headline+json"}
    assert bundle["text/plain"] == "bytes a token: predicted 28,672 B, measured 28,672 B (exact)"
    assert repr(headline) == bundle["text/plain"]
    assert bundle["application/vnd.shardlab.headline+json"] == {
        "lab": "03",
        "what": "bytes a token",
        "predicted": 28_672,
        "measured": 28_672.0,
        "unit": "bytes",
    }


def test_headline_of_numpy_numbers_can_be_written_as_json() -> None:
    headline = compare.headline(
        lab="03",
        what="x",
        predicted=np.int64(4),  # type: ignore[arg-type]
        measured=np.float32(4.5),  # type: ignore[arg-type]
        unit="s",
    )
    assert json.loads(json.dumps(headline.payload))["measured"] == 4.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_headline_without_a_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="measured"):
        compare.headline(lab="03", what="x", predicted=1, measured=value, unit="s")


def test_headline_escapes_html() -> None:
    headline = compare.headline(lab="03", what="a < b", predicted=1, measured=1, unit="")
    assert "a &lt; b" in headline._repr_mimebundle_()["text/html"]


def test_residuals() -> None:
    assert compare.residuals([2, 4, 0, 0], [3, 4, 0, 1]) == [0.5, 0.0, 0.0, math.inf]
    assert compare.residual_text(math.inf) == "not predicted"
    assert compare.residual_text(-0.105) == "-10.5 %"
    with pytest.raises(ValueError, match="1 predicted against 2 measured"):
        compare.residuals([1], [1, 2])


def test_geomean_error_counts_over_and_under_alike() -> None:
    assert compare.geomean_error([1, 1], [2, 0.5]) == pytest.approx(1.0)
    assert compare.geomean_error([3, 7], [3, 7]) == 0
    with pytest.raises(ValueError, match="above 0"):
        compare.geomean_error([1], [0])
    with pytest.raises(ValueError, match="at least one"):
        compare.geomean_error([], [])
