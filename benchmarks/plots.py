"""The roofline plot of the topic `step`, and the plots of the topics `scaling` and `shuffle`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

SUBJECT = "fastsgd"
# The colours of Okabe and Ito, which colour-blind readers tell apart; the shapes tell the libraries apart without.
STYLES = {
    SUBJECT: ("fastsgd", "#D55E00", "*", 170),
    "jax-scan": ("JAX, epoch in lax.scan", "#0072B2", "o", 42),
    "jax-step": ("JAX, jitted step", "#56B4E9", "s", 34),
    "torch": ("PyTorch", "#009E73", "^", 42),
    "torch-compile": ("PyTorch compile", "#009E73", "v", 42),
    "keras-fit": ("Keras fit", "#CC79A7", "D", 32),
    "keras-tuned": ("Keras fit, tuned", "#CC79A7", "d", 32),
    "tf-eager": ("TensorFlow loop", "#CC79A7", "X", 42),
    "sklearn": ("scikit-learn", "#8C8C8C", "P", 42),
}
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
EDGE: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.6}
APART = 0.1  # decades between two columns of points


def spread(values: Sequence[float], apart: float = APART) -> list[float]:
    """Values moved apart to at least `apart` decades from each other, as little as that takes and in their order."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    # Groups that stand shoulder to shoulder: their members' wished places, each less its distance from the first.
    groups: list[list[float]] = []
    for i in order:
        groups.append([math.log10(values[i])])
        while len(groups) > 1:
            left, right = groups[-2], groups[-1]
            start_left, start_right = sum(left) / len(left), sum(right) / len(right)
            if start_left + len(left) * apart <= start_right:
                break
            groups[-2:] = [[*left, *(wish - len(left) * apart for wish in right)]]
    places = [sum(group) / len(group) + k * apart for group in groups for k in range(len(group))]
    moved = [0.0] * len(values)
    for i, place in zip(order, places, strict=True):
        moved[i] = 10**place
    return moved


def draw_roofline(step: Mapping[str, Any], path: Path) -> None:
    """Useful arithmetic a second against useful arithmetic a byte, under the machine's two roofs."""
    workloads = step["workloads"]
    figure, axes = plt.subplots(figsize=(10.5, 6.2), layout="constrained")
    places = spread([one["operations_per_byte"] for one in workloads.values()])
    limits = step["limits"]
    rates = [figures["gflops"] for one in workloads.values() for figures in one["contestants"].values()]
    low, high = min(rates) / 2, limits["multiply_add_gflops"]
    left, right = min(places) / 2.5, max(places) * 1.6
    _draw_roofs(axes, limits, left, right)
    for place, (name, one) in zip(places, workloads.items(), strict=True):
        axes.plot([place, place], [low, high * 1.35], color="#D0D0D0", linewidth=0.8, zorder=1)
        axes.text(place, high * 1.5, name, rotation=90, ha="center", va="bottom", fontsize=8)
        for contestant, figures in one["contestants"].items():
            _, colour, marker, size = STYLES[contestant]
            layer = 4 if contestant == SUBJECT else 3
            axes.scatter(place, figures["gflops"], size, colour, marker=marker, zorder=layer, **EDGE)
    for contestant, (label, colour, marker, size) in STYLES.items():
        if any(contestant in one["contestants"] for one in workloads.values()):
            axes.scatter([], [], size, colour, marker=marker, label=label, **EDGE)
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high * 30))
    axes.set_xlabel(
        "useful operations a byte of a step (FLOP/B): rows read once, weights read twice and written once\n"
        "(networks that would cover each other stand apart a little)"
    )
    axes.set_ylabel("useful operations a second (GFLOP/s)")
    axes.set_title(f"Training in memory, {limits['threads']} threads: network/batch")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _draw_roofs(axes: Axes, limits: Mapping[str, Any], left: float, right: float) -> None:
    """Memory's slope up to the ridge, and arithmetic's flat from there."""
    top, slope = limits["multiply_add_gflops"], limits["read_gbytes"]
    ridge = top / slope
    axes.plot([left, ridge, right], [left * slope, top, top], color="black", linewidth=1.6, zorder=2)
    # Both to the left of the ridge, where the columns of points leave room.
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "bottom", "fontsize": 9}
    axes.annotate(f"multiply-adds: {top:.0f} GFLOP/s", (ridge, top), xytext=(0, 4), **style)
    axes.annotate(f"memory: {slope:.0f} GB/s", (0.5 * ridge, 0.5 * top), xytext=(-6, 0), **style)


def draw_scaling(scaling: Mapping[str, Any], path: Path) -> None:
    """Times the rows a second of one thread, by threads."""
    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    counts = sorted(map(int, scaling["limits"]))
    rate = {count: scaling["limits"][str(count)]["multiply_add_gflops"] for count in counts}
    axes.plot(counts, counts, color="#B0B0B0", linestyle=":", label="threads")
    axes.plot(
        counts, [rate[count] / rate[1] for count in counts], color="black", linewidth=1.2, label="multiply-add limit"
    )
    styles = ["-", "--", "-."]
    for colour, (name, one) in zip(LINES * len(scaling["workloads"]), scaling["workloads"].items(), strict=False):
        for k, (contestant, by_count) in enumerate(one["contestants"].items()):
            ratios = [by_count[str(count)]["times_one_thread"] for count in counts]
            label = name if contestant == SUBJECT else f"{name}, {STYLES[contestant][0]}"
            axes.plot(counts, ratios, marker="o", color=colour, linestyle=styles[k % len(styles)], label=label)
    axes.set_xticks(counts)
    axes.set(xlabel="threads", ylabel="times the rows a second of one thread", ylim=(0, None))
    axes.set_title(f"fastsgd on {scaling['machine']['cpu']}, {scaling['machine']['cores']} cores: network/batch")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def draw_shuffle(shuffle: Mapping[str, Any], path: Path) -> None:
    """Accuracy on a file sorted by label, by the blocks that the window holds."""
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for colour, (name, by_way) in zip(LINES, shuffle["accuracy"].items(), strict=False):
        means = {way: sum(values) / len(values) for way, values in by_way.items()}
        windows = sorted((way for way in means if way.isdigit()), key=int)
        places = [int(way) for way in windows]
        axes.plot(places, [means[way] for way in windows], marker="o", color=colour, label=f"{name}, swap window")
        for way in windows:
            axes.scatter([int(way)] * len(by_way[way]), by_way[way], 8, colour, alpha=0.4)
        axes.axhline(means["all"], color=colour, linestyle="--", linewidth=1, label=f"{name}, shuffled whole")
        axes.axhline(means["file order"], color=colour, linestyle=":", linewidth=1, label=f"{name}, order of the file")
    axes.set(xscale="log", xlabel="blocks in the window", ylabel=f"accuracy after {shuffle['epochs']} epochs")
    axes.set_xticks(places, windows)
    axes.minorticks_off()
    axes.set_title(f"{shuffle['rows']:,} rows sorted by label, in blocks of {shuffle['chunk_rows']:,}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="center right")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
