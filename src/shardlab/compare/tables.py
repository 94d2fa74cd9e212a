"""Where theory meets measurement: tables of predicted against measured, and the headline of a lab."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from shardlab.measure.record import Published, published_folder, read_published
from shardlab.theory.collectives import wire_bytes
from shardlab.theory.ledger import Transfer
from shardlab.theory.units import quantity_text

HEADLINE_TYPE = "application/vnd.shardlab.headline+json"


@dataclass(frozen=True)
class Row:
    """One predicted number beside one measured; unit 'bytes', 's', 'B/s', 'FLOP' or a word of your own."""

    what: str
    predicted: float
    measured: float
    unit: str = "bytes"

    @property
    def residual(self) -> float:
        """measured / predicted - 1; inf where something was measured and nothing predicted."""
        return residuals([self.predicted], [self.measured])[0]


class Table:
    """Text and HTML of the same cells. The text is the same whenever the cells are: nbval compares it."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(columns)} columns: {row}")
        self.columns = list(columns)
        self.rows = [list(row) for row in rows]
        self.title = title

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        text = [
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        text.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.title, *text] if self.title else text)

    def _repr_html_(self) -> str:
        # No colours of its own: it inherits text and background, so it reads in a light and in a dark page.
        style = "padding: 0.25em 0.8em; border-bottom: 1px solid currentColor; color: inherit; background: none;"
        left, right = f"{style} text-align: left;", f"{style} text-align: right;"
        head = "".join(
            f'<th scope="col" style="{right if column else left}">{escape(name)}</th>'
            for column, name in enumerate(self.columns)
        )
        body = "".join(
            "<tr>"
            + "".join(f'<td style="{right if column else left}">{escape(cell)}</td>' for column, cell in enumerate(row))
            + "</tr>"
            for row in self.rows
        )
        caption = (
            f'<caption style="color: inherit; text-align: left;">{escape(self.title)}</caption>' if self.title else ""
        )
        return (
            '<table style="border-collapse: collapse; font-variant-numeric: tabular-nums;">'
            f"{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


class Headline:
    """One line for the table that ends a build of the book: what a lab predicted, and what came out."""

    def __init__(self, *, lab: str, what: str, predicted: float, measured: float, unit: str) -> None:
        for name, value in (("predicted", predicted), ("measured", measured)):
            if not math.isfinite(value):
                raise ValueError(f"{name}={value}: a headline needs a finite number")
        self._row = Row(what, _plain(predicted), _plain(measured), unit)
        self.payload: dict[str, Any] = {
            "lab": lab,
            "what": what,
            "predicted": self._row.predicted,
            "measured": self._row.measured,
            "unit": unit,
        }

    def __repr__(self) -> str:
        row = self._row
        return (
            f"{row.what}: predicted {quantity_text(row.predicted, row.unit)}, "
            f"measured {quantity_text(row.measured, row.unit)} ({residual_text(row.residual)})"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        row = self._row
        html = (
            f"<p>{escape(row.what)}: "
            f"predicted <strong>{escape(quantity_text(row.predicted, row.unit))}</strong>, "
            f"measured <strong>{escape(quantity_text(row.measured, row.unit))}</strong> "
            f"({escape(residual_text(row.residual))})</p>"
        )
        return {"text/plain": repr(self), "text/html": html, HEADLINE_TYPE: dict(self.payload)}


def _plain(value: float) -> float:
    """A number that JSON can write: numpy's integers and floats become Python's."""
    return value if type(value) in (int, float) else float(value)


def residuals(predicted: Sequence[float], measured: Sequence[float]) -> list[float]:
    """measured / predicted - 1, one by one. 0 / 0 is 0. Raises ValueError for lists of different lengths."""
    if len(predicted) != len(measured):
        raise ValueError(f"{len(predicted)} predicted against {len(measured)} measured")
    return [
        real / theory - 1 if theory else (0.0 if real == 0 else math.inf)
        for theory, real in zip(predicted, measured, strict=True)
    ]


def geomean_error(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """exp(mean |log(measured / predicted)|) - 1: how far off on the whole, over or under alike.

    Raises ValueError for no numbers and for numbers that are not above 0.
    """
    pairs = list(zip(predicted, measured, strict=True))
    if not pairs or min(min(pair) for pair in pairs) <= 0:
        raise ValueError("at least one pair is needed, and every number above 0")
    return math.exp(sum(abs(math.log(real / theory)) for theory, real in pairs) / len(pairs)) - 1


def residual_text(residual: float) -> str:
    """0 -> 'exact', 0.0123 -> '+1.2 %'."""
    if residual == 0:
        return "exact"
    return "not predicted" if math.isinf(residual) else f"{residual * 100:+.1f} %"


def table(rows: Iterable[Row], *, title: str = "") -> Table:
    """Predicted beside measured, with the residual in percent of the prediction."""
    return Table(
        ("what", "predicted", "measured", "residual"),
        [
            (
                row.what,
                quantity_text(row.predicted, row.unit),
                quantity_text(row.measured, row.unit),
                residual_text(row.residual),
            )
            for row in rows
        ],
        title,
    )


def bytes_table(
    predicted: Mapping[int, Sequence[Transfer]],
    recorded: Mapping[int, Sequence[Transfer]] | None = None,
    *,
    title: str = "",
) -> Table:
    """T -> transfers of one rank: how often each op runs, what it carries, and what the rank sends for it.

    carried is the sum of the transfers' num_bytes; sent is wire_bytes with each op's default algorithm. With
    `recorded`, a last column says whether comm's record is the predicted list, in order and to the byte.
    """
    rows = []
    for size, transfers in predicted.items():
        times = Counter(one.op for one in transfers)
        carried: Counter[str] = Counter()
        for one in transfers:
            carried[one.op] += one.num_bytes
        same = []
        if recorded is not None:
            same = ["yes" if list(recorded.get(size, ())) == list(transfers) else "NO"]
        if not transfers:
            rows.append([f"T = {size}", "none", "0", "0 B", "0 B", *same])
        for op in times:
            sent = wire_bytes(op, num_bytes=carried[op], world_size=size)
            rows.append(
                [
                    f"T = {size}",
                    op,
                    str(times[op]),
                    quantity_text(carried[op], "bytes"),
                    quantity_text(sent, "bytes"),
                    *same,
                ]
            )
    columns = ["ranks", "op", "times", "carried", "sent by a rank"]
    return Table(columns + (["as recorded"] if recorded is not None else []), rows, title)


def published(name: str) -> list[Published]:
    """Other people's measurements: the rows of labs/published/<name>.csv. ValueError names the files that there are."""
    folder = published_folder()
    if not (folder / f"{name}.csv").is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.csv")))
        raise ValueError(f"published={name!r} is not in {folder.name}; it has: {known}")
    return read_published(folder / f"{name}.csv")


def headline(*, lab: str, what: str, predicted: float, measured: float, unit: str) -> Headline:
    """The last value of a lab's comparing cell: shown as a sentence, collected by the build of the book."""
    return Headline(lab=lab, what=what, predicted=predicted, measured=measured, unit=unit)
