"""Lab 07's three exercises: the bytes of an expert layer, the rank that no longer helps, the weights in four bits."""

from __future__ import annotations

from collections.abc import Callable

from shardlab.check.trial import DEGREES, busiest, number
from shardlab.check.verdict import Verdict
from shardlab.launch import Ranks
from shardlab.programs import messages
from shardlab.theory.ledger import sent_bytes
from shardlab.theory.precision import precision
from shardlab.theory.transformer import Shape

_TOKENS, _D = 36, 8  # a rank's own tokens; 2 and 3 divide _TOKENS * k


def expert_bytes(attempt: Callable[..., float], ranks: Ranks) -> Verdict:
    """Check `attempt(tokens, k, T, d_model, dtype_bytes) -> bytes that a rank sends for one layer of experts`.

    Held to what real ranks send: `tokens` of their own, k copies of each, dispatched evenly, and combined.
    """
    shape = Shape(1, _D, 4, 2, 2, 4, 4)
    for degree in DEGREES:
        for k in (3, 4):
            plan, seq = messages.plan_of("EP", degree), _TOKENS * degree
            ranks.run(messages.layer, "EP", shape, 1, seq, experts_per_token=k, plan=plan)
            measured = sent_bytes(busiest(ranks.transfers, degree), world_size=degree)
            guess = number(attempt, _TOKENS, k, degree, _D, 4)
            if isinstance(guess, Verdict):
                return guess
            if abs(guess - measured) <= 0.5:
                continue
            where = f"{_TOKENS} tokens, k={k}, T={degree}, D={_D}, 4 bytes"
            message = f"{where}: a rank sent {measured:,.0f} B; you predicted {guess:,.0f} B."
            return Verdict(False, message, _expert_hint(guess, measured, k, degree))
    return Verdict(True, "your formula equals the bytes that ranks sent, at T=2 and T=3, for k=3 and 4.")


def _expert_hint(guess: float, measured: float, k: int, degree: int) -> str:
    """Name what the guess left out, where leaving it out gives exactly the guess."""
    suspects = {
        k: "a token goes to k experts: k copies of it travel.",
        2: "what was dispatched comes back: there are two all_to_alls.",
        2 * k: "a token goes to k experts, and what was dispatched comes back.",
        (degree - 1) / degree: "1/T of the copies stay where they are.",
    }
    for factor, hint in suspects.items():
        if abs(guess * factor - measured) <= 0.5:
            return hint
    return "k copies of each token, of which (T-1)/T leave the rank, twice; each of D elements."


Case = tuple[float, Callable[[int], float], int]
_PLATEAU_S, _NETWORK_S = 9e-6, 45e-6
_CASES: tuple[Case, ...] = (
    (42e-3, lambda T: _PLATEAU_S, 160),  # latency that does not grow: more always helps
    (42e-3, lambda T: _PLATEAU_S if T <= 8 else _NETWORK_S, 160),  # a wall behind 8
    (4.8e-3, lambda T: 2e-6 * (T - 1), 64),
    (1e-4, lambda T: 1e-4, 64),  # it never helps
)
_DEGREES = (1, 2, 4, 8, 16)


def stops_paying(attempt: Callable[..., int]) -> Verdict:
    """Check `attempt(memory_s, all_reduce_s, num_all_reduces, degrees) -> T` with the shortest decode step.

    memory_s is what one rank alone takes to read everything; all_reduce_s(T) one all_reduce on T ranks.
    """
    for memory_s, all_reduce_s, num_all_reduces in _CASES:
        steps = _steps(memory_s, all_reduce_s, num_all_reduces)
        wanted = min(_DEGREES, key=lambda T: steps[T])
        guess = number(attempt, memory_s, all_reduce_s, num_all_reduces, _DEGREES)
        if isinstance(guess, Verdict):
            return guess
        if guess == wanted:
            continue
        waiting = f"{num_all_reduces} all_reduces of {all_reduce_s(8) * 1e6:g} µs at T=8"
        where = f"memory {memory_s * 1e3:g} ms alone, {waiting}"
        if guess not in steps:
            return Verdict(False, f"{where}: you say {guess:g}, which is not one of {_DEGREES}.", "return a degree.")
        message = (
            f"{where}: T={guess:g} takes {steps[int(guess)] * 1e3:.3g} ms, T={wanted} {steps[wanted] * 1e3:.3g} ms."
        )
        return Verdict(False, message, _paying_hint(guess, memory_s, all_reduce_s, num_all_reduces))
    return Verdict(
        True, "right in four cases: one where more always helps, one with a wall behind 8, one where none does."
    )


def _steps(memory_s: float, all_reduce_s: Callable[[int], float], num_all_reduces: int) -> dict[int, float]:
    return {T: memory_s / T + (num_all_reduces * all_reduce_s(T) if T > 1 else 0.0) for T in _DEGREES}


def _paying_hint(guess: float, memory_s: float, all_reduce_s: Callable[[int], float], num_all_reduces: int) -> str:
    thumb = [T for T in _DEGREES if T == 1 or num_all_reduces * all_reduce_s(T) <= memory_s / T]
    if guess == max(thumb):
        return "this is where waiting gets longer than reading. One more rank may still save more than it costs."
    return "a step takes memory_s / T, and num_all_reduces * all_reduce_s(T) on top; one rank alone reduces nothing."


def int4_bytes(attempt: Callable[[int, int], float]) -> Verdict:
    """Check `attempt(num_weights, group) -> bytes` of weights in 4 bits with one 16-bit scale a group."""
    for name, group in (("int4", 128), ("int4-g32", 32)):
        num_weights = 1 << 20
        wanted = num_weights * precision(name).bits_per_weight / 8
        guess = number(attempt, num_weights, group)
        if isinstance(guess, Verdict):
            return guess
        if abs(guess - wanted) > 0.5:
            hint = (
                "count the scales: 16 bits for each group." if guess == num_weights / 2 else "4 + 16/group bits each."
            )
            return Verdict(
                False, f"{num_weights:,} weights in groups of {group}: {wanted:,.0f} B, not {guess:,.0f}.", hint
            )
    return Verdict(True, "4.125 bits a weight in groups of 128, 4.5 in groups of 32.")
