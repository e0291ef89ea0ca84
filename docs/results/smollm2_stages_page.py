"""The page of the study smollm2-stages, made from its results; every word on an outcome follows a verdict."""

from cells import table, within
from index import BEGIN, END, cells, counted
from smollm2_page import marked
from smollm2_stages_criterion import FIRST, SECOND
from study_rows import smollm2_stages_rows

NAMES = {
    "teacher": "SmolLM2, kept tokens",
    "start": "start",
    "on-policy": "**on-policy**",
    "off-policy": "off-policy",
    "more": "more of the same",
    "on-policy, chat": "**on-policy, then chat**",
    "more, chat": "more of the same, then chat",
    "more, more": "more of the same, twice",
}
OWN = {
    "confirmed": "On its own texts an on-policy stage brings the student nearer to its teacher "
    "than as much compute of anything else",
    "refuted": "On its own texts an on-policy stage leaves the student farther from its teacher "
    "than as much compute of something else",
    "inconclusive": "Whether an on-policy stage brings the student nearer to its teacher on its own texts is undecided",
}
PRICE = {
    "confirmed": "it costs nothing on stories",
    "refuted": "it costs more than 0.02 nats on stories",
    "inconclusive": "what it costs on stories is undecided",
}
ANSWERS = {
    "confirmed": "The on-policy stage helps the chat stage after it",
    "refuted": "More of the same is the better start of a chat stage",
    "inconclusive": "A chat stage after the on-policy stage and one after more of the same are not told apart on answers",
}
CHAT = {
    "confirmed": "costs nothing on stories",
    "refuted": "costs more than 0.02 nats on stories",
    "inconclusive": "has an undecided price on stories",
}


def verdict(found, claim):
    """What became of a claim."""
    return found["claims"][claim]["verdict"]


def sentence(found):
    """What came out, in one sentence."""
    return f"{OWN[verdict(found, 'own texts')]}; {PRICE[verdict(found, 'stories')]}."


def what_it_says(found):
    """What each stage bought."""
    learned = within(found["learned"], sign="+")
    return (
        f"{ANSWERS[verdict(found, 'answers')]}. The chat stage lowers the loss on held-out answers by {learned} nats per token "
        f"from more of the same, and {CHAT[verdict(found, 'chat')]} against as much compute spent on stories."
    )


def levels(found):
    """All models on both texts and on their own."""
    lines = []
    for arm, name in NAMES.items():
        one = found["levels"][arm]
        own = [within(one["kl"]), f"{100 * one['ended']['value']:.0f} %"] if "kl" in one else ["", ""]
        lines.append([name, within(one["stories"]), within(one["answers"]), *own])
    head = (
        "model | stories, nats per token | answers, nats per token | own texts, KL to the teacher | own texts that end"
    )
    return table(head, lines)


def rates(found):
    """What was tried to choose the learning rates."""
    lines = [
        [stage, rate if rate != of["chosen"] else f"**{rate}**", f"{nats:.3f}"]
        for stage, of in found["rates"].items()
        for rate, nats in of["tried"].items()
    ]
    return table("stage | learning rate | nats per token", lines)


def cost(found):
    """Tokens that the last stage of each model reads, and its FLOPs."""
    lines = [
        [NAMES[arm].strip("*"), f"{one['tokens']:,}", f"{one['flops'] / 1e12:.1f}"]
        for arm, one in found["cost"].items()
    ]
    return table("last stage of | tokens | TFLOPs", lines)


def page(found):
    """The whole page."""
    rows, sizes, documents = list(smollm2_stages_rows(found)), found["parameters"], found["documents"]
    return (
        "\n\n".join(
            [
                "# A distilled student, on-policy and for chat",
                sentence(found),
                f"{BEGIN}\n\n{counted(rows)}\n\n{cells(rows, link=False)}\n\n{END}",
                "![By how much each stage is better than its controls, in nats per token](effects.svg)",
                "**The question.** A student that was distilled on a text can go on in three ways: with more of the same, on "
                "texts that it generates itself (on-policy distillation), or on its teacher's answers for chat. What does each "
                "buy for the same compute, and what does it cost?",
                "**What was done.** [`../smollm2-stages.sh`](../smollm2-stages.sh). SmolLM2-135M-Instruct with the tokens of "
                f"both texts has {sizes['teacher']:,} parameters. The start, `{found['shape']}`, has {sizes['student']:,} and "
                f"read {found['start_tokens']:,} tokens of children's stories. {found['answers']} answers of SmolLM2 are the "
                f"text of the chat stage. Measured are {documents['stories']} held-out stories and {documents['answers']} "
                f"held-out answers. Seeds {', '.join(map(str, found['seeds']))}, all from one start. The criterion, in "
                "[`../smollm2_stages_criterion.py`](../smollm2_stages_criterion.py), stood before the first run; its digest "
                f"is `{found['criterion']}`.",
                "## What it says",
                what_it_says(found),
                "## Levels",
                "95 % intervals over documents and seeds. Own texts go on from beginnings of the held-out stories.",
                marked("levels", levels(found)),
                "## Learning rates",
                "After a third of a stage's tokens on another seed: nats per token of held-out stories, of chat of held-out "
                "answers.",
                marked("rates", rates(found)),
                "## Cost",
                f"{FIRST[0].capitalize()} and its controls have equal FLOPs, and so have the second stages of "
                f"{SECOND[1]} and {SECOND[2]}.",
                marked("cost", cost(found)),
                "## What it does not say",
                "One start, one teacher, one share of generated rows, and short stages. The start's own seed is one. Answers are "
                "those of an assistant of 135M parameters; whether one is right or useful was not measured.",
                "## Make it again",
                "```sh\nbash docs/results/smollm2-stages.sh\n```",
                "Each command of it continues where it was stopped. `results.json` holds the numbers.",
            ]
        )
        + "\n"
    )
