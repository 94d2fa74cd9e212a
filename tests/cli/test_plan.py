"""`shardlab plan`: the table, the command that it prints, and mistakes, answered before anything is loaded."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shardlab.cli import plan_report, programs
from shardlab.cli.plain import Mistake
from shardlab.cli.plan import shape_of
from shardlab.cli.run import _plan_of_job
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import Cluster, cluster
from shardlab.theory.plan import Workload, search
from shardlab.theory.plan.forecast import TERMS
from shardlab.theory.transformer import MODELS
from tests.cli.test_mistakes import imported, said, shardlab
from tests.theory.test_claims import missing_anchor

ROOT = Path(__file__).resolve().parents[2]
ASK = ["plan", "--model", "llama-3-70b", "--cluster", "dgx-h100:2", "--input", "2048", "--output", "256"]


def asked(*more: str, **instead: str) -> list[str]:
    """ASK with other values, such as model="x"."""
    args = list(ASK)
    for name, value in instead.items():
        args[args.index(f"--{name}") + 1] = value
    return [*args, *more]


def test_the_issues_own_question_is_answered() -> None:
    done = shardlab(*asked("--slo-tpot", "50ms"), COLUMNS="120")
    assert done.returncode == 0, said(done)
    lines = done.stdout.splitlines()
    best = search(MODELS["llama-3-70b"], cluster("dgx-h100:2"), Workload(2048, 256, slo_tpot_s=0.05)).ranked[0]
    table = [line for line in lines if line.startswith("│")]
    assert len(table) == 8
    cells = [cell.strip() for cell in table[0].strip("│").split("│")]
    assert cells[0] == plan_report.plan_text(best.plan)
    assert cells[2] == f"{best.memory.kv_tokens:,}"
    assert cells[7] == f"{best.tokens_per_s_per_gpu:,.0f}"
    assert cells[8].startswith(best.bound)
    assert all(len(line) <= 120 for line in lines if not line.lstrip().startswith("torchrun"))
    assert any(line.startswith("dropped for weights: ") for line in lines)
    for term in (*TERMS, "T_lower", "KV tokens"):
        assert any(line.startswith(f"{term}:") for line in lines), term
    assert not {"torch", "numpy", "transformers", "scipy", "matplotlib"} & imported(done)


def test_every_plan_can_be_shown() -> None:
    some, every = (shardlab(*asked("--slo-tpot", "50ms", *more)).stdout for more in ((), ("--all",)))
    count = int(re.search(r"and (\d+) more plans", some)[1])  # type: ignore[index]
    assert len([line for line in every.splitlines() if line.startswith("│")]) == 8 + count
    assert every.count("\ndropped: ") == 5


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            asked(model="gpt-9"),
            "--model gpt-9: no such file or folder; allowed: a config.json, or one of smollm2-135m,",
        ),
        (asked(cluster="dgx-9000"), "cluster='dgx-9000': NAME[:COUNT] is needed, such as dgx-h100:2; NAME is one of"),
        (asked(cluster="dgx-h100:0"), "cluster='dgx-h100:0': COUNT='0'; allowed: 1 to"),
        (asked(cluster="dgx-h100:-2"), "COUNT='-2'; allowed: 1 to"),
        (asked(cluster="dgx-h100:9999999"), "COUNT='9999999'; allowed: 1 to"),
        (asked(cluster="dgx-h100:129"), "--cluster dgx-h100:129: 1,032 GPUs; allowed: up to 1,024."),
        (asked(input="0"), "'--input': '0' is not an integer of 1 or more"),
        (asked(input="-5"), "'--input': '-5' is not an integer of 1 or more"),
        (asked(input="many"), "'--input': 'many' is not an integer of 1 or more"),
        (asked(input="99999999999999"), "input_tokens=99999999999999; allowed: an integer of 1..1073741824"),
        (asked(output="1"), "output_tokens=1; allowed: an integer of 2.."),
        (asked("--slo-tpot", "50"), "'--slo-tpot': '50' is not a time"),
        (asked("--slo-tpot", "50parsecs"), "'--slo-tpot': '50parsecs' is not a time"),
        (asked("--slo-tpot", "-5ms"), "'--slo-tpot': '-5ms' is not a time"),
        (asked("--slo-ttft", "0s"), "'--slo-ttft': '0s': a time above 0 is needed"),
        (asked("--concurrency", "0"), "'--concurrency': '0' is not an integer of 1 or more"),
        (asked("--concurrency", "9999999999"), "concurrency=9999999999; allowed: an integer of 1.."),
        (asked("--precision", "int3"), "precision='int3'; allowed: fp32, bf16"),
        (asked("--kv", "int3"), "kv_precision='int3'; allowed: fp32, bf16"),
        (asked("--top", "0"), "'--top': '0' is not an integer of 1 or more"),
        (asked("--precision", "fp8", cluster="dgx-a100"), "has no fp8 rate in the catalogue; allowed: bf16"),
        (["plan"], "--model"),
        (
            asked("--slo-tpot", "1ms"),
            "--slo-tpot 1.00 ms: no plan on dgx-h100:2 reaches that; the nearest: dp2 tp8 reaches",
        ),
        (asked("--slo-ttft", "1ms", "--slo-tpot", "1ms"), "--slo-ttft 1.00 ms and --slo-tpot 1.00 ms: no plan"),
        (
            asked(model="llama-3-405b", cluster="dgx-h100"),
            "no plan of dgx-h100:1 fits llama-3-405b with weights in bf16",
        ),
        (asked(input="100000000"), "no plan of dgx-h100:2 fits llama-3-70b"),
    ],
)
def test_a_mistake_names_the_key_and_what_is_allowed(args: list[str], words: str) -> None:
    done = shardlab(*args)
    assert done.returncode == 2
    assert words in said(done)
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not {"torch", "numpy", "transformers", "scipy"} & imported(done)


def test_the_nearest_plan_says_what_it_reaches() -> None:
    nearest = search(MODELS["llama-3-70b"], cluster("dgx-h100:2"), Workload(2048, 256, slo_tpot_s=1e-3)).nearest
    assert nearest is not None
    reached = re.search(r"and TPOT ([\d.]+) ms with (.*)", said(shardlab(*asked("--slo-tpot", "1ms"))))
    assert reached is not None
    assert float(reached[1]) == pytest.approx(1e3 * nearest.tpot_s, rel=1e-2)
    assert reached[2].startswith(f"{nearest.sequences} sequence")


def test_a_model_may_be_a_config(tmp_path: Path) -> None:
    config_of(tmp_path)
    assert shape_of(str(tmp_path)) == shape_of(str(tmp_path / "config.json"))
    assert shape_of(str(tmp_path)).num_layers == 2
    done = shardlab(*asked(model=str(tmp_path)))
    assert done.returncode == 0, said(done)
    (tmp_path / "config.json").write_text("{")
    done = shardlab(*asked(model=str(tmp_path)))
    assert done.returncode == 2
    assert "config.json" in said(done) and "Traceback" not in done.stderr
    with pytest.raises(Mistake, match="no such file"):
        shape_of("/nowhere/config.json")


@pytest.mark.parametrize("where", [meaning[1] for meaning in plan_report.TERMS.values() if meaning[1]])
def test_every_term_points_to_a_cell_that_exists(where: str) -> None:
    file, anchor, label = where.partition("#")
    assert (ROOT / file).is_file()
    if anchor:
        assert missing_anchor(where, ROOT) == ""
    assert missing_anchor(f"{file}#no-such-label", ROOT) != ""


def test_every_bound_is_explained() -> None:
    assert set(TERMS) <= set(plan_report.TERMS)


def launch(model: str, nodes: int, workload: Workload) -> tuple[list[str], list[Plan]]:
    where = cluster(f"dgx-h100:{nodes}")
    ranked = search(MODELS[model], where, workload).ranked
    return plan_report.launch_lines(model, MODELS[model], where, workload, ranked), [one.plan for one in ranked]


def test_the_printed_command_is_one_that_run_takes() -> None:
    lines, plans = launch("llama-3-70b", 2, Workload(2048, 256, slo_tpot_s=0.05))
    words = shlex.split(lines[-1])
    options = dict(zip(words, words[1:], strict=False))
    assert words[0] == "torchrun" and "--nnodes=2" in words and "--nproc-per-node=8" in words
    assert Plan(dp=int(options["--dp"]), tp=int(options["--tp"])) == plans[0]
    name = words[words.index("run") + 1]
    settings = [value for option, value in zip(words, words[1:], strict=False) if option == "--set"]
    given = programs.arguments(programs.find(name), settings)  # raises for a parameter that is not there
    assert given["model"] == "llama-3-70b"
    assert (given["input_tokens"], given["output_tokens"], given["dtype"]) == (2048, 256, "bfloat16")


def test_part_of_a_node_is_started_on_one_node() -> None:
    lines, plans = launch("llama-3-8b", 2, Workload(2048, 256, concurrency=4))
    words = lines[-1].split()
    nodes, per_node = (int(word.partition("=")[2]) for word in words[1:3])
    runnable = next(plan for plan in plans if plan.world_size == plan.dp * plan.tp)
    assert nodes * per_node == runnable.world_size
    assert per_node <= 8


def test_what_has_no_code_yet_is_not_promised() -> None:
    workload = Workload(2048, 256, slo_tpot_s=0.05, stored="fp8")
    lines, plans = launch("deepseek-v3", 2, workload)
    assert lines[0].startswith("not runnable yet: ") and "ep: lab 05" in lines[0] and "fp8 weights" in lines[0]
    assert lines[-1] == "no plan of the table is runnable yet"
    assert plan_report.missing_code(MODELS["llama-3-70b"], Plan(pp=2, cp=2), Workload(8, 8)) == [
        "pp: lab 04",
        "cp: lab 06",
    ]
    assert plan_report.missing_code(MODELS["mixtral-8x7b"], Plan(), Workload(8, 8)) == ["experts: lab 05"]
    assert plan_report.missing_code(MODELS["llama-3-70b"], Plan(dp=2, tp=4), Workload(8, 8)) == []
    assert plan_report.missing_code(MODELS["llama-3-70b"], Plan(), Workload(8, 8, kv="fp8")) != []


def test_where_the_best_cannot_run_the_best_that_can_is_given() -> None:
    workload = Workload(2048, 256, concurrency=64)
    lines, plans = launch("llama-3-405b", 2, workload)
    assert plans[0].pp == 2
    assert lines[0].startswith("not runnable yet: pp2 tp8 (pp: lab 04)")
    assert "--dp 1 --tp 16" in lines[-1]


@pytest.mark.parametrize(
    ("dp", "tp", "wanted"),
    [(None, None, Plan(tp=8)), (2, None, Plan(dp=2, tp=4)), (None, 8, Plan(tp=8)), (4, 2, Plan(dp=4, tp=2))],
)
def test_a_job_is_shared_out_over_dp_and_tp(dp: int | None, tp: int | None, wanted: Plan) -> None:
    assert _plan_of_job(8, dp, tp) == wanted


@pytest.mark.parametrize(("dp", "tp"), [(3, None), (2, 2), (16, None), (8, 8)])
def test_degrees_that_are_not_the_jobs_are_named(dp: int, tp: int | None) -> None:
    with pytest.raises(Mistake, match=f"--dp {dp}.*torchrun started 8 ranks, which is dp x tp"):
        _plan_of_job(8, dp, tp)


def config_of(folder: Path) -> str:
    """A model that takes no time, as a config.json."""
    config = {
        **{"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder / "config.json")


@pytest.mark.slow
def test_the_printed_command_runs(tmp_path: Path) -> None:
    model = config_of(tmp_path)
    workload = Workload(6, 4, concurrency=3)
    where = Cluster(replace(cluster("dgx-h100").node, gpus_per_node=2))
    (best,) = search(shape_of(model), where, workload, plans=[Plan(dp=2)]).ranked
    words = shlex.split(plan_report.command(model, where, workload, best))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
    environ = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=280, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert "rank 0: 2 sequences: TTFT" in done.stdout
    assert "rank 1: 1 sequence: TTFT" in done.stdout
