"""The rooms of the house as a picture: floors from the roof to the ground, in SVG that follows the page's colours."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence, Set
from html import escape

WIDTH, LEFT, GAP = 400, 34, 6  # in units of the picture: on a phone one is 0.85 of a pixel
NAME, CAPTION, LINE = 14, 11.5, 14
FILL = "#3f90da"

HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" \
aria-labelledby="house-title house-desc" class="shardlab-picture shardlab-house" \
font-family="system-ui, -apple-system, 'Segoe UI', sans-serif" fill="currentColor">
<title id="house-title">The rooms of the code, floor over floor</title>
<desc id="house-desc">{description}</desc>
<defs><marker id="house-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">\
<path d="M0 0L8 4L0 8z" fill="{fill}"/></marker></defs>
"""


def describe(floors: Sequence[Sequence[str]]) -> str:
    """The picture in words, for those who do not see it."""
    words = "; ".join(" and ".join(floor) for floor in floors)
    return f"From the roof to the ground, floor after floor: {words}. A room imports only from floors below its own."


def _box(x: float, y: float, width: float, height: float, name: str, lines: Sequence[str], plain: bool) -> str:
    tint = f'fill="{FILL}" fill-opacity=".16"' if plain else 'fill="none"'
    parts = [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" {tint} stroke="currentColor" '
        'stroke-opacity=".55" stroke-width="1.2"/>',
        f'<text x="{x + 9:g}" y="{y + 18:g}" font-size="{NAME}" font-weight="600">{escape(name)}</text>',
    ]
    for at, line in enumerate(lines):
        place = f'x="{x + 9:g}" y="{y + 18 + LINE * (at + 1):g}"'
        parts.append(f'<text {place} font-size="{CAPTION}" opacity=".8">{escape(line)}</text>')
    return "\n".join(parts)


def draw(floors: Sequence[Sequence[str]], captions: Mapping[str, str], without_torch: Set[str]) -> str:
    """-> the SVG. floors: from the roof down, the rooms of each; without_torch: those that are tinted for it."""
    parts, y = [], 8.0
    for floor in floors:
        width = (WIDTH - LEFT - 2 - GAP * (len(floor) - 1)) / len(floor)
        texts = [textwrap.wrap(captions.get(room, ""), int((width - 14) / (0.58 * CAPTION))) for room in floor]
        height = 27 + LINE * max(map(len, texts))
        for at, (room, lines) in enumerate(zip(floor, texts, strict=True)):
            x = LEFT + at * (width + GAP)
            parts.append(_box(x, y, width, height, room, lines, room in without_torch))
        y += height + GAP
    arrow = f'<path d="M12 14V{y - 14:g}" stroke="{FILL}" stroke-width="2" fill="none" marker-end="url(#house-tip)"/>'
    middle = y / 2
    word = f'<text x="25" y="{middle:g}" font-size="{CAPTION}" text-anchor="middle" '
    word += f'transform="rotate(-90 25 {middle:g})" opacity=".8">may import</text>'
    legend = f'<rect x="{LEFT}" y="{y + 5:g}" width="16" height="12" rx="3" fill="{FILL}" fill-opacity=".16" '
    legend += 'stroke="currentColor" stroke-opacity=".55"/>'
    legend += f'<text x="{LEFT + 23}" y="{y + 15:g}" font-size="{CAPTION}" opacity=".8">never loads torch</text>'
    head = HEAD.format(width=WIDTH, height=round(y + 26), description=escape(describe(floors)), fill=FILL)
    return "\n".join([head, *parts, arrow, word, legend, "</svg>"]) + "\n"
