"""A benchmark's result as a table and bars for the terminal, and as PNG where matplotlib is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
BAR_WIDTH = 50


def table(result: Record) -> str:
    """Medians, and how many times the floor's, DuckDB's and the naive job's seconds they are."""
    head = ["", "seconds", "x floor", "x duckdb", "x naive", "cpu s", "peak MB", "files", "MB"]
    rows = [head, *(_row(name, result["medians"]) for name in result["medians"])]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def bars(result: Record) -> str:
    """Seconds as bars."""
    return _bars({name: median["seconds"] for name, median in result["medians"].items()})


def stages(result: Record) -> str:
    """Where this job's time goes, as bars; nothing if it was not among the contenders."""
    return "\n".join(
        f"\n{name}, by stage\n{_bars(median['stages'])}"
        for name, median in result["medians"].items()
        if median["stages"]
    )


def draw(results: Sequence[Record], folder: Path) -> list[Path]:
    """The PNG files drawn: seconds of all contenders, and the job's stages, over the scales."""
    try:
        import matplotlib
    except ImportError:
        print("no PNG charts: pip install matplotlib to have them", file=sys.stderr)
        return []
    matplotlib.use("Agg")  # needs no display
    profiled = any(median["stages"] for result in results for median in result["medians"].values())
    drawn = [_draw_seconds(results, folder)]
    return [*drawn, _draw_stages(results, folder)] if profiled else drawn


def _row(name: str, medians: Record) -> list[str]:
    median = medians[name]
    layout = name.partition(" ")[2]
    return [
        name,
        f"{median['seconds']:.1f}",
        *(
            _ratio(median, medians.get(other))
            for other in ("floor", f"duckdb {layout}", f"naive {layout}")
        ),
        f"{median['cpu_seconds']:.1f}",
        f"{median['peak_bytes'] / 1e6:.0f}",
        f"{median['files']:.0f}",
        f"{median['bytes'] / 1e6:.1f}",
    ]


def _ratio(median: Record, other: Record | None) -> str:
    return f"{median['seconds'] / other['seconds']:.2f}" if other else "-"


def _bars(seconds: dict[str, float]) -> str:
    longest = max(seconds.values()) or 1
    name_width = max(map(len, seconds))
    return "\n".join(
        f"{name.ljust(name_width)} {'█' * round(BAR_WIDTH * value / longest) or '▏'} {value:.2f} s"
        for name, value in seconds.items()
    )


def _draw_seconds(results: Sequence[Record], folder: Path) -> Path:
    """One panel a scale, since a small scale's bars would vanish beside a large one's."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(results), figsize=(5 * len(results), 4), squeeze=False, layout="constrained"
    )
    for panel, result in zip(panels[0], results):
        seconds = {name: median["seconds"] for name, median in result["medians"].items()}
        drawn = panel.barh(list(seconds), list(seconds.values()))
        panel.bar_label(drawn, fmt="%.1f", padding=3)
        panel.margins(x=0.15)
        panel.invert_yaxis()
        panel.set(title=f"{result['scale']}: {_size(result)}", xlabel="seconds")
    return _saved(figure, folder / "seconds.png")


def _draw_stages(results: Sequence[Record], folder: Path) -> Path:
    """One stacked bar for each scale and layout: each stage's share of the job's time."""
    from matplotlib import pyplot

    profiles = {
        f"{result['scale']}\n{name}": median["stages"]
        for result in results
        for name, median in result["medians"].items()
        if median["stages"]
    }
    figure, panel = pyplot.subplots(figsize=(3 + 2 * len(profiles), 5), layout="constrained")
    bottoms = dict.fromkeys(profiles, 0.0)
    for stage in dict.fromkeys(stage for profile in profiles.values() for stage in profile):
        shares = {
            name: 100 * profile.get(stage, 0.0) / sum(profile.values())
            for name, profile in profiles.items()
        }
        panel.bar(list(shares), list(shares.values()), bottom=list(bottoms.values()), label=stage)
        bottoms = {name: bottoms[name] + share for name, share in shares.items()}
    panel.set(title="Where the job's time goes", ylabel="% of its seconds")
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return _saved(figure, folder / "stages.png")


def _size(result: Record) -> str:
    return f"{result['input']['songs']:,} songs, {result['input']['events']:,} events"


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
