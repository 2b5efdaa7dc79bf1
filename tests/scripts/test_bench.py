"""scripts/bench: finds benchmarks by file, runs each in a process of its own, and computes what its tables say."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmarks import arithmetic, dpo_step, first_step, head, head_cases, main, measure, pairs, report, subject
from benchmarks.work import Options, Result, Row, Table, Work

FAST = """
import numpy as np
from benchmarks.measure import interleaved
from benchmarks.work import Result, Row, Table, Work

def measure(options):
    times = interleaved({"jaxpo": lambda: np.ones(10), "peer": lambda: np.ones(10)}, options)
    rows = tuple(Row(name, 10, t.wall, t.cpu, ceiling=1e12) for name, t in times.items())
    return Result((Table("ones", "numbers", rows + (Row("other", missing="not installed"),)),), {"copy": (2.0, "GB/s")})

WORK = Work("W2", "A quick one", "none", measure)
"""
BROKEN = """
from benchmarks.work import Work

def measure(options):
    raise ValueError("the peer computes something else")

WORK = Work("W10", "A broken one", "none", measure)
"""


def test_benchmarks_are_found_by_file_and_a_broken_one_does_not_stop_the_next(tmp_path, monkeypatch, capfd):
    package = tmp_path / "found"
    package.mkdir()
    (package / "broken.py").write_text(BROKEN)
    (package / "fast.py").write_text(FAST)
    (package / "other.py").write_text("x = 1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    names = main.modules(package, "found")
    assert names == ["found.broken", "found.fast"]
    assert main.main(["--write", "--out", str(tmp_path / "docs"), "--repeats", "2"], names) == 1
    out, err = capfd.readouterr()
    assert "the peer computes something else" in err
    assert "| other | not measured: not installed |" in out
    assert [path.name for path in sorted((tmp_path / "docs").iterdir())] == ["README.md", "W2.json", "ratios.png"]
    kept = json.loads((tmp_path / "docs" / "W2.json").read_text())
    assert len(kept["result"]["tables"][0]["rows"][0]["wall"]) == 2
    assert kept["peak_bytes"] > 1 << 20
    assert main.main(["W3"], names) == 2
    assert "no benchmark W3; there are W2, W10" in capfd.readouterr().out


def test_a_process_keeps_to_its_processors_and_its_time():
    assert measure.alone("os", "cpu_count", threads=1).result == os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        assert measure.alone("benchmarks.machine", "facts", threads=1).result["cores"] == 1
    with pytest.raises(measure.ChildFailed, match="not done after 1 s"):
        measure.alone("signal", "pause", timeout=1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can forget a peak")
def test_the_peak_of_a_process_is_its_own_and_not_its_parents():
    large = np.ones(1 << 26)
    assert measure.alone("os", "cpu_count").peak_bytes < large.nbytes


def test_contestants_are_measured_in_turn_after_a_round_that_warms_up():
    order = []
    times = measure.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, Options(repeats=2))
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert len(times["a"].wall) == len(times["b"].cpu) == 2


ROWS = (Row("jaxpo", 10, (1.0, 2.0), (2.0, 2.0), 100, 20.0), Row("peer", 20, (8.0, 4.0), (4.0, 8.0), 300))


def test_rates_shares_and_ratios():
    ours, peer = ROWS
    assert arithmetic.rate(ours) == arithmetic.Spread(7.5, 5.0, 10.0)
    assert arithmetic.share(ours) == 7.5 / 20
    # Per unit the peer took 4 and 2 times what ours took in the rounds' halves: 8/1/2 and 4/2/2.
    assert arithmetic.advantage(ours, peer) == arithmetic.Spread(2.5, 1.0, 4.0)
    assert arithmetic.advantage(ours, peer, of="cpu") == arithmetic.Spread(1.5, 1.0, 2.0)
    uneven = Row("peer", 20, (8.0, 4.0, 4.0))
    assert arithmetic.advantage(ours, uneven) == arithmetic.Spread(0.5 * 4 / 1.5, 0.5 * 4 / 2, 0.5 * 8 / 1)
    assert arithmetic.advantage(ours, Row("peer", missing="absent")) is None
    # Of rows without an amount the seconds are compared.
    assert arithmetic.advantage(Row("jaxpo", 0, (2.0,)), Row("peer", 0, (3.0,))).median == 1.5
    assert arithmetic.rate(Row("jaxpo", 0, (2.0,))) is None


def test_a_table_shows_the_columns_that_a_row_fills():
    text = report.markdown(Table("step", "tokens", ROWS))
    head = "tokens/s | seconds | processor seconds | peak memory | ceiling | share of it | jaxpo is faster by"
    assert head in text
    assert "| jaxpo | 7.5 (5..10) | 1.5 (1..2) | 2 (2..2) | 0 MiB | 20 | 38% |  |  |  |" in text
    assert "| 2.5 (1..4) | 1.5 (1..2) | 3.00 |" in text
    assert "ceiling" not in report.markdown(Table("step", "tokens", ROWS[1:]))


def test_a_result_comes_back_from_json_as_it_was():
    result = Result((Table("step", "tokens", ROWS),), {"copy": (2.0, "GB/s")}, ("a note",))
    entry = report.entry("W1", "title", "goal", result, {})
    assert report.result_of(json.loads(json.dumps(entry))) == result


def test_the_repetitions_are_those_that_were_taken():
    rows = [Row("jaxpo", 1, (1.0, 2.0)), Row("peer", missing="not here"), Row("other", 1, (1.0,))]
    assert report.repetitions((Table("t", "x", tuple(rows[:2])),)) == "2"
    assert report.repetitions((Table("t", "x", tuple(rows)),)) == "1 to 2"


def test_a_document_keeps_what_stands_around_the_tables():
    text = f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n"
    assert report.between(text, "new") == f"above\n{report.BEGIN}\n\nnew\n\n{report.END}\nbelow\n"
    with pytest.raises(ValueError, match="lacks the lines"):
        report.between("no marks", "new")


def test_every_file_of_the_folder_holds_a_benchmark_of_its_own_key():
    names = main.modules()
    found = main.works(names)
    assert len(found) == len(names)
    assert all(isinstance(work, Work) and work.goal for _, work in found.values())


def test_bad_arguments_are_refused(capsys):
    for words, said in ((["--repeats", "0"], "--repeats must be"), (["--smoke", "--write"], "leave out --write")):
        with pytest.raises(SystemExit):
            main.main(words)
        assert said in capsys.readouterr().err


def test_the_products_of_a_step_are_all_of_its_matrices():
    """Forward, gradient of the input and gradient of the weight: six operations per entry and token."""
    from jaxpo.models.family import family

    for config in (subject.TINY, subject.CONFIG):
        taps = config.conv_kernel * config.hidden_size * config.layer_types.count("conv")
        found = sum(2.0 * m * k * n for m, k, n in subject.training_products(config, 10))
        assert found == 6.0 * 10 * (family(config).flops(config, 0).matrices - taps)


def dense_logps(weight, hidden, targets):
    """[R, S] in float64."""
    logits = hidden.astype(np.float64) @ weight.astype(np.float64).T
    top = logits.max(-1, keepdims=True)
    normaliser = top[..., 0] + np.log(np.exp(logits - top).sum(-1))
    return np.take_along_axis(logits, targets[..., None], -1)[..., 0] - normaliser


@pytest.mark.parametrize("chunk", [None, 3])
def test_the_head_computes_what_its_name_says(chunk):
    shape = head_cases.Shape(4, 6, 8, 64)
    (w, h, targets), (rw, rh, _) = head_cases.arrays(shape, 0), head_cases.arrays(shape, 1)
    logps, reference = dense_logps(w, h, targets), dense_logps(rw, rh, targets)
    assert head_cases.jax_case("cross-entropy", shape, chunk)() == pytest.approx(-logps.mean(), rel=1e-5)
    ratio = (logps - reference).sum(1)
    margin = head_cases.BETA * (ratio[:2] - ratio[2:])
    assert head_cases.jax_case("dpo", shape, chunk)() == pytest.approx(np.log1p(np.exp(-margin)).mean(), rel=1e-5)


def test_a_recorded_teacher_has_distinct_tokens_and_its_mass():
    ids, logps, odds = head_cases.teacher(head_cases.Shape(2, 5, 8, 64))
    assert all(len(set(row)) == head_cases.TOP for row in ids.reshape(-1, head_cases.TOP))
    mass = np.exp(logps.astype(np.float64)).sum(-1)
    np.testing.assert_allclose(np.log(mass / (1 - mass)), odds, rtol=1e-4)


def test_the_head_is_measured_in_turn_and_a_contestant_that_fails_says_why(monkeypatch):
    order = []

    def alone(module, function, loss, kind, *rest, **more):
        order.append(kind)
        if kind == "trl":
            raise measure.ChildFailed("not done after 600 s")
        return measure.Measured(0.0, 0.0, 0, {"wall": float(len(order)), "cpu": 1.0, "peak": len(order), "loss": 3.4})

    monkeypatch.setattr(head, "alone", alone)
    monkeypatch.setattr(head, "has", lambda library: library != "liger_kernel")
    table = head.question("dpo", head.SHORT, Options(repeats=2), 1e12)
    assert order == ["jaxpo", "jaxpo, dense", "dense", "trl", "dense", "jaxpo, dense", "jaxpo"]
    rows = {row.name: row for row in table.rows}
    assert (rows["jaxpo"].wall, rows["jaxpo"].peak_bytes) == ((1.0, 7.0), 7)
    assert rows["TRL, chunked"].missing == "not done after 600 s"
    assert rows["Liger, chunked"].missing == "liger_kernel is not installed"
    for shape, rounds in ((head.SHORT, 3), (head.FULL, 1)):
        alone_here = head.question("dpo", shape, Options(repeats=9, peers=False), 1e12)
        assert [(row.name, len(row.wall)) for row in alone_here.rows] == [("jaxpo", rounds), ("jaxpo, dense", rounds)]


def test_a_first_step_is_the_sum_of_its_parts_and_stands_beside_what_its_memory_costs(monkeypatch):
    parts = {"trace": [1.0, 1.0], "lower": [0.5, 0.5], "compile": [4.0, 7.0], "run": [8.0, 9.0]}
    mine = {"parts": parts | {first_step.NEXT: [2.0, 3.0]}, "temporary_bytes": 1 << 30}
    replies = {"ours": mine, "touch": 6.0, "theirs": {"parts": {"run": [3.0, 4.0]}}}

    def alone(module, function, *args, environment, **more):
        assert environment == {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        if args[1:] == ("compiled",):
            raise measure.ChildFailed("no compiler")
        return measure.Measured(0.0, 0.0, 0, replies[function])

    monkeypatch.setattr(first_step, "alone", alone)
    monkeypatch.setattr(first_step, "has", lambda library: True)
    found = first_step.first_steps(Options(repeats=9))
    ours, eager, compiled = found.table.rows
    assert (ours.wall, ours.cpu, eager.wall) == ((13.5,) * 3, (17.5,) * 3, (3.0,) * 3)
    assert compiled.missing == "torch.compile: no compiler"
    assert found.ceilings == {"1.00 GiB of memory taken and written for the first time": (6.0, "s")}
    assert "compile 4.0 s, run 8.0 s, the next run 2.0 s" in found.note
    assert first_step.touch(str(1 << 20)) > 0


def test_contestants_that_compute_something_else_are_not_compared():
    assert head.apart("dpo", {"jaxpo": 0.5, "TRL": 0.50001}) == {}
    assert head.apart("dpo", {"jaxpo": 0.5, "TRL": 0.6}) == {"TRL": "it computes 0.600000, jaxpo 0.500000"}
    assert list(head.apart("dpo", {"jaxpo": 0.5, "TRL": float("nan")})) == ["TRL"]
    assert head.apart("dpo", {}) == {}
    with pytest.raises(ValueError, match=r"jaxpo, dense: it computes 0\.600000, jaxpo 0\.500000"):
        head.apart("dpo", {"jaxpo": 0.5, "jaxpo, dense": 0.6})


class Words:
    """A tokenizer of words."""

    bos_id, eos_id = 1, 2

    def encode(self, text):
        return [10 + len(word) for word in text.split()]

    def decode(self, ids):
        return " ".join("x" * (i - 10) for i in ids)


def test_pairs_are_the_best_and_the_worst_that_differ_and_fit():
    rows = [
        {"prompt": "a bb", "responses": ["ccc", "", "dd dd", "e"], "scores": [0.5, 0.0, 0.9, 0.2]},
        {"prompt": "a", "responses": ["b", "c"], "scores": [0.5, 0.45]},
        {"prompt": "a " * 50, "responses": ["b " * 90, "c"], "scores": [0.1, 0.5]},
    ]
    first, last = pairs.pairs(rows, Words(), 5, 40)
    assert (first.chosen, first.rejected) == ("xx xx", "x")
    assert first.prompt_ids == (1, 11, 12)
    assert first.chosen_ids == (12, 12, 2)
    assert first.useful == 2 * 3 + 3 + 2
    assert max(len(last.prompt_ids) + len(ids) for ids in (last.chosen_ids, last.rejected_ids)) <= 40


def test_without_the_pairs_the_benchmark_says_so(monkeypatch):
    monkeypatch.setenv(pairs.PLACE, "/nowhere")
    tables = dpo_step.measure(Options(smoke=True)).tables
    assert [row.missing for table in tables for row in table.rows] == [
        f"{pairs.FILE} is not on this machine; name it in {pairs.PLACE}"
    ] * 3
