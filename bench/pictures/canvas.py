"""A sheet to draw on: matplotlib set up so that its SVG belongs to the page around it.

Owns fonts, axes, colours, the mark of each subject, and the clean-up of the SVG. Must not know what is drawn.

Colours are names. matplotlib needs real ones, so each name has a colour that stands for nothing else, and in the SVG
that colour becomes ``var(--name)``: the page decides what it looks like by light and by dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.results import OURS, Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = (
    "ink",
    "quiet",
    "grid",
    "page",
    "floor",
    "ours",
    "ours2",
    "peer1",
    "peer2",
    "peer3",
    "peer4",
    "peer5",
    "peer6",
)
_STANDS_FOR: Final = {name: f"#fe{number:02x}ef" for number, name in enumerate(COLOURS)}
_WIDTH: Final = 4.4
_SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "font.family": "DejaVu Sans",  # comes with matplotlib; wider than any font of a page, so that all of them fit
    "font.size": 8.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _STANDS_FOR["quiet"],
    "axes.labelcolor": _STANDS_FOR["quiet"],
    "axes.titlesize": 8.6,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": _STANDS_FOR["grid"],
    "grid.linewidth": 0.8,
    "text.color": _STANDS_FOR["ink"],
    "xtick.color": _STANDS_FOR["quiet"],
    "ytick.color": _STANDS_FOR["quiet"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.pad": 5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "lines.dash_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def colour(name: str) -> str:
    """What to give matplotlib for a colour of the page."""
    return _STANDS_FOR[name]


@dataclass(frozen=True)
class Mark:
    """How one subject is drawn, everywhere on the page: never by colour alone."""

    subject: str
    colour: str
    dashes: tuple[float, ...] = ()
    symbol: str = "o"
    """matplotlib's name of a marker."""

    def line(self, *, symbols: bool = True) -> dict[str, Any]:
        """Arguments for `Axes.plot`."""
        style: dict[str, Any] = {"color": colour(self.colour), "label": self.subject}
        style |= {"linestyle": (0, self.dashes)} if self.dashes else {}
        return style | ({"marker": self.symbol, "markersize": 4.5} if symbols else {})


_SYMBOLS: Final = ("s", "D", "^", "v", "P", "X")
_DASHES: Final = ((4.0, 2.0), (1.0, 1.8), (6.0, 2.0, 1.0, 2.0))


def marks(subjects: Iterable[Subject]) -> dict[str, Mark]:
    """A mark for each subject. Ours is always the same; floors are grey and dashed.

    Runners, codecs and workflows are never in one picture, so they are numbered apart.
    """
    found: dict[str, Mark] = {}
    seen: dict[str, int] = {}
    for subject in subjects:
        kind = "runner" if subject.kind == "peer" else subject.kind
        number = seen.get(kind, 0)
        if subject.name in found:
            continue
        if subject.name.startswith(OURS):  # ours, and ours with more to do
            mark = Mark(subject.name, "ours" if subject.name == OURS else "ours2")
        elif kind == "floor":
            mark = Mark(subject.name, "floor", _DASHES[number % len(_DASHES)], "|")
        else:
            mark = Mark(subject.name, f"peer{number % 6 + 1}", symbol=_SYMBOLS[number % 6])
        seen[kind] = number + (not subject.name.startswith(OURS))
        found[subject.name] = mark
    return found


class Sheet:
    """One figure with one pair of axes, and its SVG once it has been drawn."""

    figure: Figure
    axes: Axes
    svg: str = ""


@contextmanager
def sheet(name: str, *, height: float = 2.9) -> Iterator[Sheet]:
    """Axes to draw on within the context, 4.4 inches wide, so that a phone shows words that can be read.

    ``name`` becomes part of every id, because all pictures share the page's names.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    drawn = Sheet()
    with mpl.rc_context(_SETTINGS | {"svg.hashsalt": name}):
        drawn.figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(drawn.figure)
        drawn.axes = drawn.figure.add_subplot()
        yield drawn
        out = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawn.figure.savefig(out, format="svg", metadata=nothing)
    drawn.svg = clean(out.getvalue(), name)


def clean(svg: str, name: str) -> str:
    """The ``<svg>`` element alone, with ids of its own, the page's colours and font, and a size that fits its place."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)  # a style in a page holds for all of it
    referred = set(re.findall(r"#([\w.-]+)[)\"]", svg))
    svg = re.sub(r' \bid="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in referred else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r" ?font-family: [^;\"]*;?", "", svg)
    # no size of its own, and no address at all: HTML knows the names
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1)
    # matplotlib writes more digits than a screen has; what stands between the tags is for people and stays
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><")
    for known, hexadecimal in _STANDS_FOR.items():
        svg = svg.replace(hexadecimal, f"var(--{known})")
    return svg
