"""Where theory meets measurement: tables of both, and errors on other people's rows (held_out is their protocol)."""

from shardlab.compare.tables import (
    Headline,
    Row,
    Table,
    bytes_table,
    geomean_error,
    headline,
    published,
    residual_text,
    residuals,
    table,
)

__all__ = [
    "Headline",
    "Row",
    "Table",
    "bytes_table",
    "geomean_error",
    "headline",
    "published",
    "residual_text",
    "residuals",
    "table",
]
