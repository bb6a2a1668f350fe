"""Write the README's figures and draw the plots from `results/*.json`, measuring nothing.

What stands between the README's two markers is replaced; the rest is left alone. Topics without a file are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"
SUBJECT = "fastsgd"
# Column titles, in the order of the columns.
TITLES = {
    "jax-scan": "JAX `lax.scan`",
    "jax-step": "JAX step",
    "torch": "PyTorch",
    "torch-compile": "PyTorch `compile`",
    "keras-fit": "Keras `fit`",
    "keras-tuned": "Keras tuned",
    "tf-eager": "TensorFlow loop",
    "sklearn": "scikit-learn",
}
FILE_TITLES = {
    "torch-rows": "PyTorch `DataLoader`, random rows",
    "torch-chunks": "PyTorch, chunks shuffled by hand",
    "sklearn-chunks": "scikit-learn `partial_fit`",
    "vw": "Vowpal Wabbit",
}

Results = Mapping[str, Any]


def read_results(folder: Path) -> dict[str, Any]:
    """The content of each topic's file by its name, as in ``{"step": ..., "step_threads_1": ...}``."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column aligned left and the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def thousands(rows_per_second: float) -> str:
    """Thousands with three digits or more: 0.512, 51.2, 5,120."""
    value = rows_per_second / 1e3
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def times(ratio: float) -> str:
    """A ratio with two digits or more: 0.95, 1.3, 24."""
    return f"{ratio:.{0 if ratio >= 9.95 else 1 if ratio >= 1 else 2}f}"


def share_of_limit(figures: Results, reads_bound: bool) -> str:
    """Of the limit that holds: arithmetic, or reading where that is said."""
    if reads_bound:
        return f"{figures['fraction_of_read_limit']:.0%} of reading"
    return f"{figures['fraction_of_multiply_add_limit']:.0%}"


def step_table(step: Results) -> str:
    """Networks down, peers across: how many times faster fastsgd is."""
    workloads = step["workloads"]
    peers = [peer for peer in TITLES if any(peer in one["contestants"] for one in workloads.values())]
    rows = []
    for one in workloads.values():
        contestants = one["contestants"]
        own = contestants[SUBJECT]
        rows.append(
            [
                "-".join(map(str, one["layers"])),
                f"{one['batch']:,}",
                thousands(own["median_rows_per_second"]),
                share_of_limit(own, one["reads_bound"]),
                *(times(contestants[peer]["fastsgd_times_faster"]) if peer in contestants else "" for peer in peers),
            ]
        )
    return table(["network", "batch", "thousand rows/s", "of the limit", *(TITLES[peer] for peer in peers)], rows)


def versions(step: Results) -> str:
    """fastsgd's libraries and the peers, with versions."""
    libraries = step["machine"]["libraries"]
    known = {f"{name} {libraries[name]}": None for name in ("fastsgd", "numba", "numpy") if name in libraries}
    for one in step["workloads"].values():
        for peer, title in (
            ("jax-scan", "JAX"),
            ("torch", "PyTorch"),
            ("keras-fit", "Keras"),
            ("sklearn", "scikit-learn"),
        ):
            if peer in one["contestants"]:
                # What follows the comma differs by workload.
                known[f"{title} {one['contestants'][peer]['version'].split(',')[0]}"] = None
    return ", ".join(known)


def machine(content: Results) -> str:
    """The machine and its limits in one sentence."""
    found, limits = content["machine"], content["limits"]
    return (
        f"{found['cores']} cores of an {found['cpu']} with vectors of {limits['vector_bytes'] * 8} bits and "
        f"{found['memory_gib']} GiB; at most {limits['multiply_add_gflops']:.0f} GFLOP/s of float32 multiply-adds, "
        f"{limits['read_gbytes']:.0f} GB/s from memory, {limits['page_cache_gbytes']:.0f} GB/s from the page cache, "
        f"measured with {limits['threads']} thread{'s' if limits['threads'] > 1 else ''}"
    )


def day(content: Results) -> str:
    """The date of a run in words."""
    found = date.fromisoformat(content["date"])
    return f"{found.day} {found:%B %Y}"


def step_section(results: Results) -> list[str]:
    """The main table, that of one thread, and those of other machines: ``step_<name>.json``."""
    step = results["step"]
    # Such a run does not land in this folder by itself.
    partial = step["settings"].get("only") or step["settings"].get("quick")
    notice = "**Provisional, of some networks only.** " if partial else ""
    parts = [
        f"{notice}{day(step)}: {machine(step)}. {versions(step)}.",
        "Whole `fit()` epochs in memory, fastsgd's shuffling included, the peers' data in place and unshuffled; "
        f"medians of {step['settings']['rounds']} rounds in turns. Under each peer stands **how many times faster "
        "fastsgd is**; *of the limit* is the share of the multiply-add rate that useful work takes, for 784-1 that of "
        "memory's reading rate. *Keras tuned* has the fastest of `jit_compile` and `steps_per_execution`.",
        step_table(step),
    ]
    if single := results.get("step_threads_1"):
        limits = single["limits"]
        parts += [
            f"All held to one thread, {day(single)} (vectors of {limits['vector_bytes'] * 8} bits, "
            f"{limits['multiply_add_gflops']:.0f} GFLOP/s, {limits['read_gbytes']:.0f} GB/s):",
            step_table(single),
        ]
    for name, other in results.items():
        if name.startswith("step_") and not name.startswith("step_threads_"):
            parts += [f"On all cores of another machine, {day(other)}: {machine(other)}.", step_table(other)]
    return parts


def own_table(results: Results) -> list[str]:
    """Prediction, float64 and streaming: fastsgd beside itself."""
    predict, dtype, stream = (results.get(name, {}).get("workloads", {}) for name in ("predict", "dtype", "stream"))
    names = [name for name in results["step"]["workloads"] if name in predict or name in dtype or name in stream]
    rows = []
    for name in names:
        network, batch = name.split("/")
        one, reads_bound = predict.get(name), results["step"]["workloads"][name]["reads_bound"]
        rows.append(
            [
                network,
                f"{int(batch):,}",
                thousands(one["predict"]["median_rows_per_second"]) if one else "",
                share_of_limit(one["predict"], reads_bound) if one else "",
                share_of_limit(one["fit"], reads_bound) if one else "",
                f"{dtype[name]['float64_over_float32']:.2f}" if name in dtype else "",
                f"{stream[name]['streamed_over_memory']:.2f}" if name in stream else "",
            ]
        )
    header = ["network", "batch", "`predict`, thousand rows/s", "of the limit", "training beside it"]
    header += ["float64 rate over float32", "streamed epoch over one in memory"]
    if not rows:
        return []
    return [
        "`predict` on arrays (its limit counts forward work only), training in float64, and a streamed epoch after the "
        "first from an uncompressed file in the page cache with a quarter of the file as memory:",
        table(header, rows),
    ]


def file_section(results: Results) -> list[str]:
    """Training from a file beside others, the reader alone, and what the window does."""
    parts = []
    if "file" in results:
        rows = []
        for name, one in results["file"]["workloads"].items():
            network, batch = name.split("/")
            contestants = one["contestants"]
            peers = [
                times(contestants[peer]["fastsgd_times_faster"]) if peer in contestants else "" for peer in FILE_TITLES
            ]
            rate = thousands(contestants["fastsgd-file"]["median_rows_per_second"])
            rows.append([network, f"{int(batch):,}", rate, *peers])
        parts += [
            "Trained from one uncompressed HDF5 file in the page cache, fastsgd with a quarter of it as memory; under "
            "each peer, how many times faster fastsgd is (Vowpal Wabbit reads a cache file of its own):",
            table(["network", "batch", "thousand rows/s", *FILE_TITLES.values()], rows),
        ]
    if "read" in results:
        rows = [
            [name, f"{one['gbytes']['fastsgd']:.2f}", f"{one['times_h5py']:.1f}", f"{one['times_preadv']:.2f}"]
            for name, one in results["read"]["formats"].items()
        ]
        parts += [
            "The reader alone, from the page cache, beside slices of the same rows through h5py and beside `preadv` of "
            "the file's bytes:",
            table(["stored", "GB/s of values", "over h5py", "over `preadv`"], rows),
        ]
    if "shuffle" in results:
        parts.append("![Accuracy on a sorted file by blocks in the window](benchmarks/results/shuffle.png)")
    return parts


def start_sentence(results: Results) -> list[str]:
    """Seconds that a new process takes."""
    if "start" not in results:
        return []
    seconds = {name: f"{one['median']:.2f}" for name, one in results["start"]["seconds"].items()}
    said = ", ".join(f"{name} {value}" for name, value in seconds.items())
    return [f"Seconds from the start of a new process, medians: {said}."]


def checkpoint_sentence(results: Results) -> list[str]:
    """What checkpoints cost."""
    if "checkpoint" not in results:
        return []
    said = "; ".join(
        f"{name} {one['time_over_none']['by itself']:.3f} and {one['time_over_none']['one a second']:.3f}"
        for name, one in results["checkpoint"]["networks"].items()
    )
    return [
        f"`fit` with the checkpoints that it writes by itself, and with one a second, over `fit` with none: {said}."
    ]


def speed_section(results: Results) -> str:
    """What stands between the markers."""
    parts = [*step_section(results), "![Roofline](benchmarks/results/roofline.png)"]
    parts += own_table(results)
    parts += file_section(results)
    parts += start_sentence(results)
    parts += checkpoint_sentence(results)
    if "scaling" in results:
        parts.append("![Rows a second by threads](benchmarks/results/scaling.png)")
    return "\n\n".join(parts)


def with_section(readme: str, section: str) -> str:
    """The README with its section replaced.

    Raises
    ------
    ValueError
        If it has not each marker once, the first one first.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"the README needs {BEGIN} and {END}, each once, in this order")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{section}\n{END}{rest.split(END)[1]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the section and draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files, and for the plots")
    parser.add_argument("--readme", type=Path, default=README)
    options = parser.parse_args(arguments)
    results = read_results(options.results)
    if "step" not in results:
        parser.error(f"no step.json in {options.results}: run.py step writes it")
    text = with_section(options.readme.read_text(encoding="utf-8"), speed_section(results))
    from plots import draw_roofline, draw_scaling, draw_shuffle

    draw_roofline(results["step"], options.results / "roofline.png")
    if "scaling" in results:
        draw_scaling(results["scaling"], options.results / "scaling.png")
    if "shuffle" in results:
        draw_shuffle(results["shuffle"], options.results / "shuffle.png")
    options.readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
