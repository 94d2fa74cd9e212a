"""theory.plan.search: workloads, what fits, forecasts by hand, and the order of the plans."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.theory import capacity, work
from shardlab.theory.collectives import time_s
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import Accelerator, Cluster, Link, Node, cluster
from shardlab.theory.plan import Dropped, Forecast, Workload, search
from shardlab.theory.plan.links import one_level
from shardlab.theory.plan.planner import enumerate_plans, forecast
from shardlab.theory.transformer import MODELS, Experts, Shape

TINY = Shape(4, 64, 128, 8, 4, 8, 200, name="tiny")
LINK = Link(1e-6, 1e9)
MACHINE = Accelerator("toy", 1e9, 1e10, 1e12, LINK)
ONE_NODE = Cluster(Node("toy", MACHINE, 4, LINK, nics=4))
LLAMA = MODELS["llama-3-70b"]


def on_link(op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> float:
    return time_s(op, num_bytes=num_bytes, world_size=world_size, link=LINK, algorithm=algorithm)


def one(plan: Plan, workload: Workload, shape: Shape = TINY, where: Cluster = ONE_NODE) -> Forecast:
    found = forecast(shape, where, workload, plan, one_level(on_link))
    assert isinstance(found, Forecast), found
    return found


def dropped(plan: Plan, workload: Workload, shape: Shape = TINY, where: Cluster = ONE_NODE) -> Dropped:
    found = forecast(shape, where, workload, plan, one_level(on_link))
    assert isinstance(found, Dropped), found
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_tokens": 0}, "input_tokens=0; allowed: an integer of 1.."),
        ({"input_tokens": 1 << 40}, "input_tokens=1099511627776"),
        ({"output_tokens": 1}, "output_tokens=1; allowed: an integer of 2.."),
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": True}, "concurrency=True"),
        ({"slo_tpot_s": 0.0}, "slo_tpot_s=0.0; allowed: above 0 seconds"),
        ({"slo_ttft_s": float("inf")}, "slo_ttft_s=inf"),
        ({"slo_ttft_s": float("nan")}, "slo_ttft_s=nan"),
        ({"stored": "fp7"}, "precision='fp7'; allowed: fp32, bf16"),
        ({"kv": "fp7"}, "kv_precision='fp7'; allowed: fp32, bf16"),
        ({"arrival": "late"}, "arrival='late'; allowed: 'steady', 'together'"),
        ({"arrival": "together"}, "concurrency=None: sequences that arrive together have a number"),
    ],
)
def test_what_makes_no_workload_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        Workload(**{"input_tokens": 8, "output_tokens": 8, **change})


@pytest.mark.parametrize(
    ("plan", "shape", "kind", "said"),
    [
        (Plan(tp=9), TINY, "heads", "tp=9 cannot split num_heads=8"),
        (Plan(pp=5), TINY, "layers", "pp=5"),
        (Plan(dp=2, ep=2), TINY, "experts", "has no experts"),
        (Plan(dp=2, ep=2), replace(TINY, moe=Experts(3, 1, 8)), "experts", "ep=2 does not divide num_experts=3"),
        (Plan(cp=11), TINY, "prompt", "cp=11: a prompt of 10 tokens"),
        (Plan(dp=4), TINY, "replicas", "dp=4: 3 sequences leave replicas without work"),
    ],
)
def test_a_degree_that_cannot_work_is_dropped_with_its_reason(plan: Plan, shape: Shape, kind: str, said: str) -> None:
    found = dropped(plan, Workload(10, 5, concurrency=3), shape)
    assert found.kind == kind
    assert said in found.reason


def test_what_does_not_fit_says_weights_or_cache() -> None:
    small = Cluster(replace(ONE_NODE.node, accelerator=replace(MACHINE, memory_bytes=5e4)))
    assert dropped(Plan(), Workload(10, 5), where=small).kind == "weights"
    found = dropped(Plan(tp=4), Workload(10**6, 10**6, concurrency=4))
    assert found.kind == "KV cache"
    assert "not for 4 sequences of 2,000,000" in found.reason
    assert "not for one sequence of 20,000,000" in dropped(Plan(), Workload(10**7, 10**7)).reason


def test_the_fullest_replica_must_have_room() -> None:
    tokens = one(Plan(dp=4), Workload(10, 5)).memory.kv_tokens
    workload = Workload(tokens - 10, 5, concurrency=4)  # one sequence a replica, and no second one
    assert one(Plan(dp=4), workload).sequences == 4
    assert "not for 2 sequences" in dropped(Plan(dp=4), replace(workload, concurrency=5)).reason


def test_the_memory_is_the_tightest_ranks() -> None:
    workload = Workload(100, 28, concurrency=1)
    found = one(Plan(tp=2), workload)
    held = capacity.tightest(TINY, Plan(tp=2), MACHINE.memory_bytes, workload.weights, workload.cache)
    assert found.memory == held
    assert found.most_sequences == held.kv_tokens // 128


def work_s(plan: Plan, workload: Workload, **sizes: int) -> float:
    """The longer one of arithmetic and memory, on one stage."""
    flops = work.stage_flops(TINY, plan, logit_positions=1, **sizes)[0]
    moved = work.stage_hbm_bytes(TINY, plan, workload.weights, workload.cache, **sizes)[0]
    return max(flops / MACHINE.bf16_flops, moved / MACHINE.hbm_Bps)


def comms_s(tokens: int, sequences: int, tp: int = 2) -> float:
    """Nine all_reduces (four layers and the embedding) and the gather of one row of logits a sequence, by hand."""
    reduce = on_link("all_reduce", num_bytes=tokens * 64 * 2, world_size=tp)
    return 9 * reduce + on_link("all_gather", num_bytes=sequences * 200 * 2, world_size=tp)


def test_sequences_that_arrive_together_by_hand() -> None:
    workload, plan = Workload(10, 6, concurrency=8, arrival="together"), Plan(dp=2, tp=2)
    found = one(plan, workload)
    prefill = work_s(plan, workload, batch=4, seq=10) + comms_s(40, 4)
    step = work_s(plan, workload, batch=4, seq=1, past=13) + comms_s(4, 4)
    assert found.ttft_s == pytest.approx(prefill)
    assert found.tpot_s == pytest.approx(step)
    assert found.life_s == pytest.approx(prefill + 5 * step)
    assert found.tokens_per_s == pytest.approx(8 * 6 / (prefill + 5 * step))
    assert found.tokens_per_s_per_gpu == pytest.approx(found.tokens_per_s / 4)
    assert found.decode.upper_s == pytest.approx(step)
    assert found.decode.lower_s < step


def test_a_steady_engine_puts_prompts_between_steps() -> None:
    workload, plan = Workload(10, 6, concurrency=8), Plan(dp=2, tp=2)
    found = one(plan, workload)
    prompt = work_s(plan, workload, batch=1, seq=10) + comms_s(10, 1)
    step = work_s(plan, workload, batch=4, seq=1, past=13) + comms_s(4, 4)
    assert found.ttft_s == pytest.approx(prompt + step)
    assert found.tpot_s == pytest.approx(step + 3 * prompt / 5)
    assert found.tokens_per_s == pytest.approx(8 * 6 / (4 * prompt + 5 * step))
    alone = one(plan, replace(workload, concurrency=2))
    assert alone.ttft_s == pytest.approx(prompt)


def test_stages_do_not_speed_up_one_sequence_and_keep_busy_with_many() -> None:
    workload = Workload(10, 6, concurrency=1, arrival="together")
    whole, cut = one(Plan(), workload), one(Plan(pp=4), workload)
    hop = on_link("send", num_bytes=64 * 2, world_size=2)
    assert cut.tpot_s == pytest.approx(whole.tpot_s + 3 * hop, rel=0.02)
    # the most loaded stage is busy a quarter of the time, and a little more: it has the output matrix too
    assert 0.5 < cut.terms["bubble"] / cut.life_s < 0.75
    assert cut.bound == "bubble"
    many = one(Plan(pp=4), replace(workload, concurrency=8))
    assert many.terms["bubble"] / many.life_s < cut.terms["bubble"] / cut.life_s
    assert one(Plan(), workload).terms["bubble"] == 0


@given(
    st.sampled_from([Plan(), Plan(tp=2), Plan(pp=2), Plan(cp=2), Plan(2, 1, 1, 2), Plan(1, 2, 1, 2)]),
    st.integers(2, 30),
)
@settings(max_examples=40, deadline=None)
def test_terms_add_up_to_a_life_and_every_time_grows_with_the_load(plan: Plan, sequences: int) -> None:
    for arrival in ("steady", "together"):
        workload = Workload(20, 6, concurrency=plan.dp * sequences, arrival=arrival)  # pyright: ignore
        less, more = one(plan, workload), one(plan, replace(workload, concurrency=plan.dp * (sequences + plan.pp)))
        assert sum(less.terms.values()) == pytest.approx(less.life_s, rel=1e-9)
        assert more.tpot_s >= less.tpot_s and more.ttft_s >= less.ttft_s
        assert less.decode.lower_s <= less.decode.upper_s


def test_a_ring_hides_behind_its_attention() -> None:
    workload = Workload(20_000, 2, concurrency=1)
    split = one(Plan(cp=4), workload)
    assert split.prefill.comms_s > 0
    assert split.ttft_s < split.prefill.upper_s
    slow = replace(ONE_NODE.node, accelerator=replace(MACHINE, bf16_flops=1e18))  # nothing to hide behind
    assert one(Plan(cp=4), workload, where=Cluster(slow)).ttft_s == pytest.approx(
        one(Plan(cp=4), workload, where=Cluster(slow)).prefill.upper_s, rel=1e-3
    )


def test_without_a_number_a_plan_takes_as_many_as_the_slo_allows() -> None:
    free = one(Plan(tp=2), Workload(100, 28))
    assert free.sequences == free.most_sequences
    limit = free.tpot_s / 3
    workload = Workload(100, 28, slo_tpot_s=limit)
    found = one(Plan(tp=2), workload)
    assert found.tpot_s <= limit
    assert 1 < found.sequences < free.sequences
    above = one(Plan(tp=2), replace(workload, concurrency=found.sequences + 1))
    assert above.tpot_s > limit
    hopeless = one(Plan(tp=2), Workload(100, 28, slo_tpot_s=1e-9))
    assert hopeless.sequences == 1
    assert hopeless.misses(Workload(100, 28, slo_tpot_s=1e-9)) > 1


def test_the_order_is_tokens_a_second_and_the_slo_comes_first() -> None:
    workload = Workload(2048, 256, slo_tpot_s=0.05, slo_ttft_s=0.1)
    outcome = search(LLAMA, cluster("dgx-h100:2"), workload)
    rates = [found.tokens_per_s for found in outcome.ranked]
    assert rates == sorted(rates, reverse=True)
    assert all(found.tpot_s <= 0.05 and found.ttft_s <= 0.1 for found in outcome.ranked)
    assert all(found.tpot_s > 0.05 or found.ttft_s > 0.1 for found in outcome.missed)
    misses = [found.misses(workload) for found in outcome.missed]
    assert misses and misses == sorted(misses)
    assert outcome.best == outcome.ranked[0] and outcome.nearest is None
    plans = [found.plan for found in (*outcome.ranked, *outcome.missed, *outcome.dropped)]
    assert sorted(map(repr, plans)) == sorted(map(repr, enumerate_plans(LLAMA, cluster("dgx-h100:2"), workload)))


def test_an_slo_that_nothing_meets_names_the_nearest() -> None:
    outcome = search(LLAMA, cluster("dgx-h100:2"), Workload(2048, 256, slo_tpot_s=1e-3))
    assert outcome.best is None and outcome.nearest is not None
    assert outcome.nearest.tpot_s == min(found.tpot_s for found in outcome.missed)
    tight = search(MODELS["llama-3-405b"], cluster("dgx-h100"), Workload(2048, 256))
    assert tight.best is None and tight.nearest is None and tight.dropped


def test_tensor_inside_and_the_rest_across() -> None:
    one_sequence = search(LLAMA, cluster("dgx-h100:2"), Workload(2048, 256, concurrency=1))
    assert one_sequence.best is not None
    assert one_sequence.best.plan == Plan(tp=8)  # a node: sixteen ranks pay the network 161 times a token
    many = search(LLAMA, cluster("dgx-h100:2"), Workload(2048, 256, slo_tpot_s=0.05))
    assert many.best is not None and many.best.plan.dp > 1
    assert all(found.plan.tp <= 8 for found in many.ranked[:8])


def test_experts_go_over_replicas_of_attention() -> None:
    outcome = search(MODELS["deepseek-v3"], cluster("dgx-h100:2"), Workload(2048, 256, slo_tpot_s=0.05, stored="fp8"))
    assert outcome.best is not None
    assert outcome.best.plan.ep == 16 and outcome.best.plan.dp > 1


def test_a_given_number_may_leave_gpus_out_and_none_may_not() -> None:
    used = {plan.world_size for plan in enumerate_plans(TINY, ONE_NODE, Workload(8, 8, concurrency=2))}
    assert used == {1, 2, 4}
    assert {plan.world_size for plan in enumerate_plans(TINY, ONE_NODE, Workload(8, 8))} == {4}
    degrees = {plan.ep for plan in enumerate_plans(replace(TINY, moe=Experts(8, 2, 8)), ONE_NODE, Workload(8, 8))}
    assert degrees == {1, 2, 4}
    assert Plan(tp=4, ep=4) not in enumerate_plans(replace(TINY, moe=Experts(8, 2, 8)), ONE_NODE, Workload(8, 8))


def test_fp8_needs_a_machine_that_has_it() -> None:
    with pytest.raises(ValueError, match="precision='fp8': a100_sxm_80gb has no fp8 rate"):
        search(LLAMA, cluster("dgx-a100"), Workload(128, 8, stored="fp8"))
    fast = replace(MACHINE, fp8_flops=2e12)
    prefill = Workload(4000, 2, concurrency=1, stored="fp8")
    slow_one = one(Plan(), replace(prefill, stored="bf16"), where=Cluster(replace(ONE_NODE.node, accelerator=fast)))
    fast_one = one(Plan(), prefill, where=Cluster(replace(ONE_NODE.node, accelerator=fast)))
    assert fast_one.prefill.math_s == pytest.approx(slow_one.prefill.math_s / 2)


def test_a_model_of_this_machine_takes_the_place_of_the_catalogue() -> None:
    workload = Workload(10, 6, concurrency=4, arrival="together")
    slow = search(TINY, ONE_NODE, workload, time_of=lambda op, **_: 1.0, plans=[Plan(tp=4), Plan(dp=4)])
    assert slow.best is not None and slow.best.plan == Plan(dp=4)
    free = search(TINY, ONE_NODE, workload, time_of=lambda op, **_: 0.0, plans=[Plan(tp=4), Plan(dp=4)])
    assert free.best is not None and free.best.plan == Plan(tp=4)


def test_planning_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom shardlab.theory import plan, hardware\nfrom shardlab.theory.transformer import MODELS\n"
        "plan.search(MODELS['llama-3-8b'], hardware.cluster('dgx-h100'), plan.Workload(64, 8))\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
