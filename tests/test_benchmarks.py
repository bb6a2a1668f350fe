"""The benchmarks' arithmetic, report and runner. Nothing here is timed."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import plots
import report
import run
from contest import rows_of
from topics.scaling import thread_counts
from workloads import (
    CLASSES,
    LOGISTIC,
    WORKLOADS,
    Workload,
    choose,
    forward_operations,
    make_problem,
    useful_operations,
)

ROOT = Path(__file__).parents[1]
README = f"# Title\n\nbefore\n\n{report.BEGIN}\nold figures\n{report.END}\n\nafter\n"


def contestant(rate, faster, arithmetic, reading):
    return {
        "version": "1.2, with a flag",
        "median_rows_per_second": rate,
        "fastsgd_times_faster": faster,
        "fraction_of_multiply_add_limit": arithmetic,
        "fraction_of_read_limit": reading,
        "gflops": rate * 1e-6,
    }


def step_results(threads=2):
    network = Workload((10, 64, 64, 1), 256, 2560).to_dict()
    linear = Workload((784, 1), 256, 2560, LOGISTIC).to_dict()
    return {
        "topic": "step",
        "date": "2026-11-22",
        "machine": {"cpu": "Abacus", "cores": 2, "memory_gib": 24, "libraries": {"fastsgd": "0.1.0", "numba": "0.68"}},
        "settings": {"threads": threads, "rounds": 5},
        "limits": {
            "threads": threads,
            "vector_bytes": 64,
            "multiply_add_gflops": 239.0,
            "read_gbytes": 33.0,
            "page_cache_gbytes": 12.0,
        },
        "workloads": {
            "10-64-64-1/256": {
                **network,
                "contestants": {
                    "fastsgd": contestant(5_606_000.0, 1.0, 0.646, 0.007),
                    "jax-scan": contestant(2_454_000.0, 2.284, 0.28, 0.003),
                    "tf-eager": contestant(25_000.0, 224.2, 0.003, 0.0),
                },
            },
            "784-1/256": {
                **linear,
                "contestants": {
                    "fastsgd": contestant(8_123_456.0, 1.0, 0.1, 0.77),
                    "jax-scan": contestant(9_000_000.0, 0.9, 0.12, 0.86),
                },
            },
        },
    }


def scaling_results():
    by_count = {str(count): {"times_one_thread": 0.9 * count} for count in (1, 2, 4)}
    return {
        "machine": {"cpu": "Abacus", "cores": 4},
        "limits": {str(count): {"multiply_add_gflops": 120.0 * count} for count in (1, 2, 4)},
        "workloads": {"10-64-64-1/256": {"contestants": {"fastsgd": by_count, "jax-scan": by_count}}},
    }


def test_useful_operations_by_hand():
    # 640 + 4096 + 64 weights: 4 operations each, and 2 more for all but the first 640.
    assert useful_operations([10, 64, 64, 1]) == 4 * 4800 + 2 * 4160 == 27_520
    assert useful_operations([784, 1]) == 784 * (2 + 2)
    assert useful_operations([3, 2, 1]) == 4 * 8 + 2 * 2
    assert forward_operations([3, 2, 1]) == 16
    assert useful_operations([10, 64, 64, 1]) < 3 * forward_operations([10, 64, 64, 1])


def test_bytes_and_intensity_by_hand():
    linear = Workload((784, 1), 256, 2560, LOGISTIC)
    assert linear.bytes_per_row == 4 * 785
    assert linear.reads_bound
    assert linear.intensity == pytest.approx(3136 * 256 / (3140 * 256 + 3 * 785 * 4))
    classes = Workload((54, 128, 128, 7), 64, 640, CLASSES)
    assert classes.bytes_per_row == 4 * 55
    assert not classes.reads_bound
    assert Workload((4, 3), 10, 10, dtype="float64").bytes_per_row == 8 * 7


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.name)
def test_the_suite_is_whole_batches_and_makes_its_problems(workload):
    assert workload.rows % workload.batch == 0
    assert rows_of("tf-eager", workload) % workload.batch == 0 < rows_of("tf-eager", workload) <= workload.rows
    quick = workload.quick()
    assert quick.rows % quick.batch == 0
    assert 2 * quick.batch <= quick.rows <= workload.rows
    problem = make_problem(Workload(workload.layers, 4, 8, workload.loss), seed=0)
    assert problem["X"].shape == (8, workload.layers[0])
    assert problem["y"].shape == (8, 1 if workload.loss == CLASSES else workload.layers[-1])
    assert {array.dtype.name for array in problem.values()} == {"float32"}


def test_choose():
    assert [one.name for one in choose(["10-64-64-1/32"])] == ["10-64-64-1/32"]
    assert [one.batch for one in choose(["784-512-512-10"])] == [128, 1024]
    assert choose([]) == list(WORKLOADS)
    with pytest.raises(ValueError, match="no workload '1-2-3'; there are 10-64-64-1/32"):
        choose(["784-1/256", "1-2-3"])


def test_thread_counts():
    assert thread_counts(1) == [1]
    assert thread_counts(2) == [1, 2]
    assert thread_counts(12) == [1, 2, 4, 8, 12]
    assert thread_counts(16) == [1, 2, 4, 8, 16]


def test_the_table_is_that_of_the_figures():
    assert report.step_table(step_results()).splitlines() == [
        "| network | batch | thousand rows/s | of the limit | JAX `lax.scan` | TensorFlow loop |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| 10-64-64-1 | 256 | 5,606 | 65% | 2.3 | 224 |",
        "| 784-1 | 256 | 8,123 | 77% of reading | 0.90 |  |",
    ]


def test_the_table_of_fastsgd_beside_itself():
    names = ("10-64-64-1/256", "784-1/256")
    shares = contestant(2_000.0, 1.0, 0.5, 0.7)
    results = {
        "step": step_results(),
        "predict": {"workloads": {name: {"predict": shares, "fit": shares} for name in names}},
        "dtype": {"workloads": {names[0]: {"float64_over_float32": 0.493}}},
        "stream": {"workloads": {names[1]: {"streamed_over_memory": 1.128}}},
        "start": {"seconds": {"import": {"median": 0.123}, "first batch": {"median": 31.0}}},
    }
    section = report.speed_section(results)
    assert "| 10-64-64-1 | 256 | 2.00 | 50% | 50% | 0.49 |  |" in section
    assert "| 784-1 | 256 | 2.00 | 70% of reading | 70% of reading |  | 1.13 |" in section
    assert "medians: import 0.12, first batch 31.00." in section


def test_the_report_leaves_the_rest_of_the_readme_alone(tmp_path):
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "step.json").write_text(json.dumps(step_results()))
    (tmp_path / "step_threads_1.json").write_text(json.dumps(step_results(threads=1)))
    (tmp_path / "step_avx2.json").write_text(json.dumps(step_results()))
    (tmp_path / "step_xeon.json").write_text(json.dumps(step_results()))
    (tmp_path / "scaling.json").write_text(json.dumps(scaling_results()))
    arguments = ["--results", str(tmp_path), "--readme", str(tmp_path / "README.md")]
    report.main(arguments)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"# Title\n\nbefore\n\n{report.BEGIN}\n22 November 2026: 2 cores of an Abacus")
    assert text.endswith(f"\n{report.END}\n\nafter\n")
    assert "old figures" not in text
    assert "JAX 1.2" in text
    assert text.count("| 10-64-64-1 | 256 | 5,606 |") == 4
    assert text.count("On all cores of another machine, 22 November 2026: 2 cores of an Abacus") == 2
    assert (tmp_path / "roofline.png").stat().st_size > 10_000
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    report.main(arguments)
    assert (tmp_path / "README.md").read_text() == text


@pytest.mark.parametrize("text", ["", report.BEGIN, f"{report.END}{report.BEGIN}", README + README])
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(ValueError, match="each once"):
        report.with_section(text, "new")


def test_the_readme_is_what_the_results_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert report.with_section(text, report.speed_section(report.read_results(report.RESULTS))) == text


def test_columns_of_points_do_not_cover_each_other():
    moved = plots.spread([100.0, 1.0, 101.0, 99.0], apart=0.1)
    assert moved[1] == pytest.approx(1.0)
    assert moved[3] < moved[0] < moved[2]
    assert moved[2] / moved[0] == pytest.approx(10**0.1)
    assert moved[0] == pytest.approx(100, rel=0.001)


def test_a_quick_step_from_end_to_end(tmp_path, capsys):
    arguments = ["step", "--quick", "--peers", "", "--only", "10-64-64-1/256", "--threads", "1", "--out", str(tmp_path)]
    assert run.main(arguments) == 0
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    assert content["settings"]["threads"] == 1
    assert {"cpu", "cores", "memory_gib", "python", "libraries"} <= content["machine"].keys()
    limits = content["limits"]
    assert min(limits[f"{kind}_measured"][0] for kind in ("multiply_add_gflops", "read_gbytes")) > 0
    own = content["workloads"]["10-64-64-1/256"]["contestants"]["fastsgd"]
    assert len(own["seconds"]) == len(own["losses"]) == 5
    assert own["losses"][-1] < own["losses"][0]
    assert "10-64-64-1" in report.step_table(content)
    assert "thousand rows/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step", "--only", "1-2-3"], "no workload '1-2-3'"),
        (["step", "--peers", "torch,abacus"], "unknown peers abacus"),
        (["step", "--rounds", "3"], "at least 5"),
        (["juggle"], "invalid choice: 'juggle'"),
    ],
)
def test_what_cannot_be_run_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        run.main(arguments)
    assert message in capsys.readouterr().err
