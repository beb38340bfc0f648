"""Where the texts of a figure lie."""

from __future__ import annotations

import itertools
from typing import Any


def overlaps(figure: Any) -> list[tuple[str, str]]:
    """List pairs of texts whose boxes overlap, and texts that leave the figure (paired with '')."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in shown]
    frame = figure.bbox.padded(1.0)
    outside = [(text, "") for text, box in boxes if frame.count_contains(box.corners()) < 4]
    pairs = itertools.combinations(boxes, 2)
    return outside + [(a, b) for (a, box_a), (b, box_b) in pairs if box_a.padded(-1).overlaps(box_b.padded(-1))]
