"""Show a figure in a notebook: a small PNG that says in words what it shows.

A screen reader needs the words, and a plain matplotlib output carries none. So the output is an <img>
with an alt text and the PNG inside it; the notebook, the book and nbconvert all keep it as it is. The
bytes are in it once only.
"""

from __future__ import annotations

import base64
import html
import io

from matplotlib.figure import Figure
from PIL import Image

MAX_BYTES = 60_000
_DPIS = (144, 120, 100)  # the first that is small enough
_COLORS = 256  # flat fills and smoothed letters need no more
_CSS_PIXELS_PER_IN = 100


class Picture:
    """What `show` returns. Jupyter displays it; `png` is the file and `figure` the matplotlib object."""

    def __init__(self, figure: Figure, png: bytes, alt: str) -> None:
        self.figure = figure
        self.png = png
        self.alt = alt

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png).decode()
        width = round(self.figure.get_figwidth() * _CSS_PIXELS_PER_IN)
        alt = html.escape(self.alt)
        return f'<img alt="{alt}" width="{width}" src="data:image/png;base64,{data}">'

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def show(figure: Figure, alt: str) -> Picture:
    """The figure as a PNG below 60 kB with `alt`, one or two sentences that say what it shows.

    Raises ValueError for an empty alt text, or a figure too busy to be that small.
    """
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows")
    png = b""
    for dpi in _DPIS:
        png = _png(figure, dpi)
        if len(png) <= MAX_BYTES:
            return Picture(figure, png, alt)
    raise ValueError(f"the figure takes {len(png)} bytes at {_DPIS[-1]} dpi, and {MAX_BYTES} is the limit")


def _png(figure: Figure, dpi: int) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    palette = (
        Image.open(drawn).convert("RGB").quantize(_COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )
    small = io.BytesIO()
    palette.save(small, format="png", optimize=True)
    return small.getvalue()
