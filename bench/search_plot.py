"""How latency, recall, memory and disk grow with the number of documents, as a picture.

python bench/search_plot.py .cache/bench-search/latency.json docs/search_growth.svg
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

INKS = ("#1f5a96", "#c2571a", "#3a7d44")


def panel(axes: Any, title: str, sizes: list[int], lines: dict[str, list[float]]) -> None:
    """Draw lines over sizes, each with its name at its end."""
    for (name, values), ink in zip(lines.items(), INKS, strict=False):
        axes.plot(sizes, values, color=ink, marker="o", markersize=4, linewidth=1.5, label=name)
        for size, value in zip(sizes, values, strict=True):
            axes.annotate(
                f"{value:,.3g}" if value < 1000 else f"{value:,.0f}",
                (size, value),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=ink,
            )
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
    axes.minorticks_off()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12, y=0.18)
    axes.legend(fontsize=8, frameon=False, loc="best")


def main() -> None:
    """Draw."""
    rows = sorted(json.loads(Path(sys.argv[1]).read_text()), key=lambda row: row["documents"])
    sizes = [row["documents"] for row in rows]

    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = "opengte"  # the same picture of the same figures
    figure, grid = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    panel(
        grid[0, 0],
        "A hybrid question, embedding included, ms",
        sizes,
        {"p50": column("hybrid_p50_ms"), "p99": column("hybrid_p99_ms")},
    )
    panel(
        grid[0, 1],
        "One leg alone, p50, ms",
        sizes,
        {"vectors": column("dense_p50_ms"), "words": column("words_p50_ms")},
    )
    panel(
        grid[1, 0],
        "Recall@10 of the exact answer",
        sizes,
        {"vectors": column("recall@10"), "hybrid": column("hybrid_recall@10")},
    )
    grid[1, 0].set_ylim(0.9, 1.01)
    panel(
        grid[1, 1],
        "Memory of the process and disk, MiB",
        sizes,
        {"memory": column("memory_mib"), "disk": column("disk_mib")},
    )
    grid[1, 1].set_yscale("log")
    for axes in grid[1]:
        axes.set_xlabel("documents, 384 dimensions, 60 words each", fontsize=8)
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
