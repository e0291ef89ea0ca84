"""The page of the study on chat, made from its results; index.py and tables.py fill its tables."""

CLAIMS = {  # what each claim is called in tables
    "after training": "After training more constraints are followed than before",
    "logits, equal tokens": "Answers with logits beat answers alone at equal tokens",
    "logits, equal compute": "Answers with logits beat answers alone at equal FLOPs",
    "constraints, equal tokens": "With logits more constraints are followed, equal tokens",
    "constraints, equal compute": "With logits more constraints are followed, equal FLOPs",
}
ARMS = {
    "teacher": "teacher",
    "student": "**answers and logits**",
    "cut+ce": "answers alone, equal tokens",
    "cut+ce@flops": "answers alone, equal FLOPs",
    "cut": "pruned, untrained",
}
_SENTENCE = {
    "confirmed": "Answers with logits make a better small chat model than answers alone at equal compute, by held-out loss",
    "refuted": "At equal compute, answers alone make a better small chat model than answers with logits, by held-out loss",
    "inconclusive": "At equal compute, no difference can be told between answers with logits and answers alone, by held-out loss",
}
_FOLLOWS = {
    "confirmed": "it follows more constraints than before training",
    "refuted": "it follows fewer constraints than before training",
    "inconclusive": "that it follows more constraints than before training is not shown",
}


def percent(found, *, sign=""):
    """A share with its interval in percent."""
    return f"{100 * found['value']:{sign}.1f} % ({100 * found['low']:{sign}.1f} to {100 * found['high']:{sign}.1f})"


def by_chance(found):
    """What a headline adds where neither the student nor what it was before follows more constraints than by chance."""
    arms = (found["followed"][arm] for arm in ("student", "cut"))
    more = [one["followed"]["low"] > one["by_chance"]["value"] for one in arms]
    return "" if any(more) else "; neither is more than by chance"


def page(found):
    """The whole page, with marks for what index.py and tables.py write."""
    verdicts, answers, prompts, sizes = (found[key] for key in ("verdicts", "answers", "prompts", "parameters"))
    before, after = found["vocabulary"]
    mine, theirs, untrained = (
        f"{percent(one['followed'])} of the constraints, {percent(one['by_chance'])} by chance"
        for one in (found["followed"][arm] for arm in ("student", "teacher", "cut"))
    )
    return f"""# SmolLM2 made small for chat

{_SENTENCE[verdicts["logits, equal compute"]]}; {_FOLLOWS[verdicts["after training"]]}{by_chance(found)}.

<!-- made by index.py: begin -->

<!-- made by index.py: end -->

![By how much the student is better than each other model, in nats per token and in shares of constraints](effects.svg)

**The question.** A chat model, of {sizes["teacher"] / 1e6:.0f}M parameters with its vocabulary trimmed, answers prompts. A
student of {sizes["student"] / 1e6:.0f}M learns from the answers, or from the answers and the logits. What does it keep of the
loss, and of what a program can check about an answer?

**What was done.** [`../smollm2-chat.sh`](../smollm2-chat.sh). SmolLM2-135M-Instruct generated {answers["generated"]:,} answers
at temperature {answers["temperature"]}. {answers["ended"]:,} of them ended within 256 tokens; {answers["train"]:,} were learned
from and {answers["held_out"]:,} held out. The vocabulary is what the training text uses, {after:,} of {before:,} tokens. Each arm
begins with the same pruned model; the student read {found["trained_tokens"]:,} tokens. The criterion, in
[`../smollm2-chat.py`](../smollm2-chat.py), stood before the first run.

Constraints are those of {prompts["checked"]:,} prompts of IFEval, {found["constraints"]:,} in all, such as no commas or a title
in double angular brackets. The other {prompts["left_out"]:,} prompts need something trained, and are left out. An answer is
greedy and has up to 256 tokens, fewer than some constraints ask for. *By chance* is the share that a model's answers to other
prompts follow.

<!-- table models: begin -->

Made by tables.py.

<!-- table models: end -->

The student follows {mine}; the teacher {theirs}. Before training the student followed {untrained}: text
without sense breaks few of these constraints, so a share says something only above chance.

## What it does not say

One teacher, one size of student, {len(found["seeds"])} seeds, under a thousand prompts, each answered once. Whether an answer is
right or useful was not measured.
"""
