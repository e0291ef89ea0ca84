"""The sentence of reports about the rows that a student generated itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.probes.overlap import TOP
from limbeck.report.words import count, share

_PART = 10  # the first and the last tenth of the steps are told apart


def generated_in(rows: Sequence[Mapping[str, Any]]) -> str:
    """How much a student generated, how long its texts were and how many ended by themselves, from rows of its metrics.jsonl.

    "" where it generated nothing. Texts that grow towards the limit, and end by themselves less and less, are the first sign of
    an on-policy training that fails (arXiv 2604.08527), so the first and the last tenth of the steps are given apart.
    """
    generated = [row for row in rows if row.get("rollouts")]
    if not generated:
        return ""
    texts, tokens = (sum(row[key] for row in generated) for key in ("rollouts", "rollout_tokens"))
    part = max(1, len(generated) // _PART)
    first, last = _mean(generated[:part]), _mean(generated[-part:])
    lost = sum(row.get("unanswered", 0) for row in generated)
    without = f" Of {count(lost)} of these tokens the server gave no distribution; they did not count." if lost else ""
    return (
        f"It generated {count(texts)} texts of {count(tokens)} tokens in all. In the first steps a text had {first[0]:.0f} "
        f"tokens on average and {share(first[1])} ended by themselves, in the last {last[0]:.0f} and {share(last[1])}.{without}"
    )


def watched_in(rows: Sequence[Mapping[str, Any]]) -> str:
    """What was measured of texts that a student generated during its training, from rows of held_out.jsonl; "" for nothing."""
    measured = [row for row in rows if "overlap" in row]
    if not measured:
        return ""
    first, last, lowest = measured[0], measured[-1], min(row["overlap"] for row in measured)
    parts = (
        f"{share(first['overlap'])} and {share(last['overlap'])} of its {TOP} most probable tokens were the teacher's (at the "
        f"lowest {share(lowest)})",
        f"KL(student ‖ teacher) was {first['kl_own_texts']:.3f} and {last['kl_own_texts']:.3f} nats a token",
        f"its entropy {first['entropy_own_texts']:.3f} and {last['entropy_own_texts']:.3f}",
        f"{share(first['texts_ended'])} and {share(last['texts_ended'])} of the texts ended by themselves",
        f"a text had {first['tokens_own_texts']:.0f} and {last['tokens_own_texts']:.0f} tokens",
    )
    return f"Measured on such texts before its first step and after its last: {'; '.join(parts)}."


def _mean(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Tokens of a text, and the share of texts that ended by themselves."""
    texts = sum(row["rollouts"] for row in rows)
    return sum(row["rollout_tokens"] for row in rows) / texts, sum(row["rollouts_ended"] for row in rows) / texts
