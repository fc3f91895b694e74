"""Small charts as inline SVG: horizontal bars with a mark, no script, nothing loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _ROW, _LABEL = 640, 22, 200


@dataclass(frozen=True)
class Bar:
    """One bar: `mark` is drawn as a line across it (a threshold); `strong` colours it, and its label, as the one that matters:
    where a small value is what is wrong (a p-value), the bar alone could not be seen."""

    label: str
    value: float
    mark: float | None = None
    strong: bool = False


def bars(title: str, rows: Sequence[Bar]) -> str:
    """An SVG figure of horizontal bars from zero, labelled with their values; empty where there is nothing to show."""
    if not rows:
        return ""
    largest = max([abs(bar.value) for bar in rows] + [abs(bar.mark) for bar in rows if bar.mark is not None]) or 1.0
    scale = (_WIDTH - _LABEL - 90) / largest
    height = _ROW * len(rows) + 6
    named = escape(title)
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [f'<figure><figcaption>{named}</figcaption><svg {size} role="img" aria-label="{named}">']
    for index, bar in enumerate(rows):
        y, width = index * _ROW + 4, max(1.0, abs(bar.value) * scale)
        kind = "strong" if bar.strong else "bar"
        place = f'class="{kind}" x="{_LABEL - 8}" y="{y + 12}" text-anchor="end"'
        parts.append(f"<text {place}>{escape(_short(bar.label))}</text>")
        parts.append(f'<rect class="{kind}" x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_ROW - 8}"/>')
        parts.append(f'<text x="{_LABEL + width + 6:.1f}" y="{y + 12}">{bar.value:.4g}</text>')
        if bar.mark is not None:
            x = _LABEL + abs(bar.mark) * scale
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + _ROW - 5}"/>')
    return "".join([*parts, "</svg></figure>"])


def _short(label: str) -> str:
    return label if len(label) <= 28 else label[:27] + "…"
