"""Goal C10's protocol: nothing that is held out can be seen by a fit, and every number follows from the tables."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks import cost_published
from shardlab import compare
from shardlab.compare import errors as compare_published
from shardlab.compare import held_out
from shardlab.compare.errors import Errors
from shardlab.compare.held_out import EXPERIMENTS, Experiment, Source
from shardlab.measure.record import Published
from shardlab.theory import nccl

BY_NAME = {experiment.software: experiment for experiment in EXPERIMENTS}


def keys(sources: tuple[Source, ...]) -> set[Published]:
    return {row for source in sources for row in source.rows()}


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda one: one.software)
def test_held_out_is_another_number_of_gpus_or_another_box(experiment: Experiment) -> None:
    assert experiment.fitted and experiment.held_out
    assert not keys(experiment.fitted) & keys(experiment.held_out)
    fitted = {(row.world_size, row.gpu, row.source) for row in keys(experiment.fitted)}
    for source in experiment.held_out:
        for row in source.rows():
            assert (row.world_size, row.gpu, row.source) not in fitted
            box_or_count = row.world_size not in {n for n, _, _ in fitted} or row.source not in {s for *_, s in fitted}
            assert box_or_count
            if "other box" in source.name:
                assert row.source not in {address for *_, address in fitted}


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda one: one.software)
def test_no_fit_sees_a_held_out_row(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compare_published.costs(experiment)
    hidden = keys(experiment.held_out)
    published = compare.published

    def spoiled(name: str) -> list[Published]:
        return [replace(row, seconds=row.seconds * 7) if row in hidden else row for row in published(name)]

    monkeypatch.setattr(compare, "published", spoiled)
    assert compare_published.costs(experiment) == before
    errors = {one.name: one for one in compare_published.published_errors()}
    for source in experiment.held_out:  # the test would notice: the errors do see them
        assert errors[source.name].measured_s == tuple(row.seconds for row in source.rows())
        assert min(row.seconds for row in source.rows()) > 7 * min(row.seconds for row in hidden) * 0.99


def test_every_table_is_there_once_and_its_errors_add_up() -> None:
    errors = compare_published.published_errors()
    names = [source.name for one in EXPERIMENTS for source in (*one.fitted, *one.held_out)]
    assert [one.name for one in errors] == names
    assert len(set(names)) == len(names)
    held = {source.name for one in EXPERIMENTS for source in one.held_out}
    for one in errors:
        assert one.held_out == (one.name in held)
        logs = [abs(math.log(1 + error)) for error in one.signed]
        assert one.geomean == pytest.approx(math.exp(sum(logs) / len(logs)) - 1)
        assert list(one.num_bytes) == sorted(one.num_bytes)


def test_a_prediction_by_hand() -> None:
    experiment = BY_NAME["TensorRT-LLM all-reduce"]
    cost = compare_published.costs(experiment)["one_shot"]
    (table,) = [one for one in compare_published.published_errors() if one.name == "TensorRT-LLM, 4xH100"]
    for size, seconds in zip(table.num_bytes, table.predicted_s, strict=True):
        wire = 3 * size  # one shot: to each of three peers
        by_hand = cost.alpha_s + wire / cost.bandwidth_Bps + cost.sqrt_s * math.sqrt(wire)
        assert seconds == pytest.approx(by_hand)
    # In the switch: two hops, S + S/n.
    cost = compare_published.costs(BY_NAME["NCCL"])["nvls"]
    (table,) = [one for one in compare_published.published_errors() if one.name.startswith("NCCL (Vidur), 8x")]
    wire = table.num_bytes[0] * 9 / 8
    by_hand = 2 * cost.alpha_s + wire / cost.bandwidth_Bps + cost.sqrt_s * math.sqrt(wire) + cost.base_s
    assert table.predicted_s[0] == pytest.approx(by_hand)


def test_each_software_s_own_rule() -> None:
    vllm, trtllm, of_nccl = (held_out.RULES[name] for name in ("vllm", "trtllm", "nccl"))
    assert [vllm((512 << 10) - one, 4) for one in (0, 1)] == ["two_shot", "one_shot"]
    assert [vllm((256 << 10) - one, 8) for one in (0, 1)] == ["two_shot", "one_shot"]
    assert vllm(1 << 30, 2) == trtllm(1 << 30, 2) == "one_shot"
    assert [trtllm(size, 8) for size in (499_999, 500_000)] == ["one_shot", "two_shot"]
    assert [trtllm(size, 4) for size in (999_999, 1_000_000)] == ["one_shot", "two_shot"]
    assert [of_nccl(2 << 20, n) for n in (4, 5, 8)] == ["ring", "nvls", "nvls"]
    assert of_nccl((2 << 20) - 1, 8) == "ring"


def test_nccl_s_own_model_and_the_line_on_the_same_tables() -> None:
    ours = [one for one in compare_published.published_errors() if one.held_out]
    line = [one for one in compare_published.line_errors() if one.held_out]
    theirs = [one for one in compare_published.nccl_errors() if one.held_out]
    assert [one.num_bytes for one in line] == [one.num_bytes for one in ours]
    (eight,) = [one for one in theirs if one.name == "NCCL (pynccl), 8xH100, other box"]
    assert eight.geomean == pytest.approx(0.201, abs=5e-4)
    assert eight.predicted_s[0] == nccl.model(nccl.DGX_H100)("all_reduce", num_bytes=524_288, world_size=8)
    same = [one for one in ours if one.name in {other.name for other in theirs}]
    assert len(same) == len(theirs) == len(BY_NAME["NCCL"].held_out)
    assert compare_published.overall(same) < compare_published.overall(theirs)
    assert compare_published.overall(ours) < compare_published.overall(line)


def test_errors_are_signed_and_add_up_to_one_number() -> None:
    one = Errors("two GPUs", True, (512, 1 << 20), (1e-6, 2e-6), (1.1e-6, 1.5e-6))
    assert one.signed == (pytest.approx(0.1), pytest.approx(-0.25))
    assert compare_published.overall([one]) == pytest.approx(one.geomean)


def test_the_bench_says_what_was_reached() -> None:
    rows = cost_published.rows()
    held = [source.name for experiment in EXPERIMENTS for source in experiment.held_out]
    assert [row.what for row in rows if row.goal == "C10"][1:] == held
    ours = [one for one in compare_published.published_errors() if one.held_out]
    assert rows[0].met == (compare_published.overall(ours) <= 0.12)
    assert rows[0].measured.startswith(f"{compare_published.overall(ours):.1%}")
    for row, one in zip(rows[2:], ours, strict=True):
        assert row.met == (one.geomean <= 0.12)
        assert ("NCCL's model" in row.measured) == row.what.startswith("NCCL")


def test_a_source_without_rows_is_named() -> None:
    with pytest.raises(ValueError, match="nobody: no rows of 'Nobody' with 8 GPUs in allreduce_8xh100"):
        Source("nobody", "allreduce_8xh100", "Nobody", 8).rows()


def test_no_torch_is_loaded() -> None:
    program = "import sys, shardlab.compare.errors; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"
