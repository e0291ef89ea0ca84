"""The page of SmolLM2's students, and its picture, from results.json, files.json and tasks.json of its folder.

usage: smollm2_page.py [FOLDER] writes README.md and quality.svg there, by default in docs/results/smollm2. Nothing on the page is
typed by hand: what is said follows the verdicts. A test compares it as soon as results.json is committed.
"""

import sys

from cells import table, within
from index import BEGIN, END, cells, counted
from smollm2_picture import drawn
from study_rows import HERE, read, smollm2

ARMS = {
    "student": "**the student**",
    "cut+ce": "cross-entropy, equal tokens",
    "cut+ce@flops": "cross-entropy, equal FLOPs",
    "fresh+kd": "fresh start, distilled",
    "cut": "pruned, untrained",
}
SIZES = ("20M", "40M")


def marked(name, made):
    """A table between its marks."""
    return f"<!-- table {name}: begin -->\n\n{made}\n\n<!-- table {name}: end -->"


def claims(folder):
    """The table of claims, as index.py writes it."""
    rows = list(smollm2(folder))
    return f"{BEGIN}\n\n{counted(rows)}\n\n{cells(rows, link=False)}\n\n{END}"


def megabytes(number):
    """Bytes as megabytes."""
    return f"{number / 1e6:.1f} MB"


def file_of(files, name):
    """A file by its name."""
    (found,) = [row for row in files["files"] if row["name"] == name]
    return found


def sentence(results, files):
    """What came out, in one sentence."""
    teacher, student = file_of(files, "teacher, Q4_1"), file_of(files, "20M, q8_0")
    faster = student["speed"]["generation"]["times_teacher"]["value"]
    verdict = {
        "confirmed": "better than cross-entropy at equal compute",
        "refuted": "worse than cross-entropy at equal compute",
        "inconclusive": "not told apart from cross-entropy at equal compute",
    }[results["verdicts"]["equal compute"]]
    return (
        f"A student of {megabytes(student['bytes'])} has {student['bits_per_byte']['value']:.3f} bits per byte of held-out "
        f"stories, its teacher of {megabytes(teacher['bytes'])} {teacher['bits_per_byte']['value']:.3f}; it writes "
        f"{faster:.1f} times as fast, and is {verdict}."
    )


def setting(results):
    """What was made of what."""
    small, large = (results["models"][size] for size in SIZES)
    kept, whole = results["vocabulary"]["tokens"][1], results["vocabulary"]["tokens"][0]
    return (
        f"SmolLM2-135M-Instruct (as a Q4_1 file, Apache-2.0) teaches students of {small['parameters']:,} and "
        f"{large['parameters']:,} parameters, cut out of it, on TinyStories. Of its {whole:,} tokens those that the stories use "
        f"are kept, {kept:,}; its logits were captured once. Each training read {small['tokens']:,} tokens. Shapes: "
        f"`{small['shape']}` and `{large['shape']}`. Seeds {', '.join(map(str, results['seeds']))}; the same "
        f"{results['documents']} held-out stories everywhere, which no arm was trained on. The criterion is in `../smollm2.py` "
        "and stood before the first of these trainings; cut, learning rate and objective were chosen before by short trials on "
        "another seed, with the same held-out stories."
    )


def levels(results):
    """Losses of all arms, in nats of the kept tokens and in bits per byte."""
    lines = [["teacher", within(results["teacher"]), bits(results, "20M", "teacher"), "", ""]]
    for arm, name in ARMS.items():
        line = [name]
        for size in SIZES:
            known = results["levels"][size].get(arm)
            line += [within(known), bits(results, size, arm)] if known else ["", ""]
        lines.append(line)
    lines.append(["TAID in place of forward KL", within(results["levels"]["20M with TAID"]), "", "", ""])
    for epochs, found in results["levels"]["20M, cross-entropy by epochs"].items():
        if epochs.isdigit():
            lines.append([f"cross-entropy, {epochs} epoch{'s' * (epochs != '1')}", within(found), "", "", ""])
    return table("model | 20M, nats per token | 20M, bits per byte | 40M, nats per token | 40M, bits per byte", lines)


def bits(results, size, arm):
    """Bits per byte of an arm, where they were read."""
    found = results["models"][size]["bits_per_byte"].get(arm)
    return within(found) if found else ""


def cuts(results):
    """The cuts that were tried."""
    lines = [
        [
            f"**{name}**" if name == results["chosen"] else name,
            f"`{found['shape']}`",
            f"{found['parameters']:,}",
            within(found["untrained"]),
            within(found["nats"]),
        ]
        for name, found in results["cuts"].items()
    ]
    return table("cut | shape | parameters | untrained, nats | student, nats", lines)


def trials(results):
    """The learning rates and objectives that were tried."""
    lines = []
    for found in results["trials"].values():
        nats = found["nats"]
        entropy = within(nats["cut+ce"]) if "cut+ce" in nats else ""
        lines.append([f"{found['learning_rate']:g}", f"`{found['objective']}`", within(nats["student"]), entropy])
    return table("learning rate | objective | student, nats | cross-entropy, nats", lines)


def sizes(files):
    """The files in llama.cpp."""
    lines = []
    for row in files["files"]:
        own = row["model"] == "teacher"
        reads, writes = (row["speed"][what] for what in ("prefill", "generation"))
        kl = row["exported"] and f"{row['exported']['kl']['value']:.2g}"
        lines.append(
            [
                row["name"],
                megabytes(row["bytes"]),
                within(row["bits_per_byte"]),
                "" if own else within(row["above_teacher"], sign="+"),
                kl or "",
                f"{reads['tokens_per_s']['value']:,.0f}",
                f"{writes['tokens_per_s']['value']:,.0f}",
                "" if own else within(reads["times_teacher"], 1),
                "" if own else within(writes["times_teacher"], 1),
            ]
        )
    head = "file | size | bits per byte | above the teacher | KL to the student | reads/s | writes/s"
    return table(f"{head} | reads, times the teacher | writes, times the teacher", lines)


TASKS = {"grammar": "BLiMP, pairs", "last_words": "LAMBADA, last words"}


def tasks(found):
    """The standard tasks: shares that are right, and paired differences."""
    by = {(one["model"], one["name"]): one for one in found["readings"]}
    lines = []
    for task, name in TASKS.items():
        for model in dict.fromkeys(one["model"] for one in found["readings"]):
            line = [name, model, within(by[model, f"acc, {task}"])]
            for other in ("teacher", "cross-entropy", "untrained"):
                more = by.get((model, f"acc_minus_{other}, {task}"))
                line.append(within(more, sign="+") if more else "")
            line.append(within(by[model, f"bits_per_byte, {task}"]))
            lines.append(line)
            name = ""
    head = "task | model | right | less the teacher | less cross-entropy | less the untrained cut"
    return table(f"{head} | bits per byte", lines)


def cost(results):
    """Minutes of each run."""
    lines = [[f"`{name}`", f"{seconds / 60:,.0f}"] for name, seconds in results["seconds"].items()]
    lines.append(["**all**", f"{sum(results['seconds'].values()) / 60:,.0f}"])
    return table("run, with its seeds and baselines | minutes, one thread", lines)


def stopped(results):
    """Which times are of training steps alone."""
    names = [f"`{name}`" for name in results["continued"]]
    if not names:
        return "The times are of whole commands."
    listed = ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
    return (
        f"The times are of whole commands; of {listed}, which were stopped and continued, of the training steps alone."
    )


def texts(files):
    """What each model writes after one prompt."""
    found = files["texts"]
    parts = [f"Each goes on from `{found['prompt']}`; how was chosen before any of these was read."]
    drawn_how = f"drawn at temperature {found['temperature']:g}, seed {found['seed']}"
    for name, by in found["by"].items():
        for how, said in by.items():
            block = f"…{said.replace('`', chr(39))}"
            parts.append(f"{name}, {'greedily' if how == 'greedy' else drawn_how}:\n\n```text\n{block}\n```")
    return "\n\n".join(parts)


SAID = {  # what each verdict means
    "equal tokens": {
        "confirmed": "On as many tokens the captured logits make a better 20M student than the text alone.",
        "refuted": "On as many tokens the text alone makes a better 20M model than with the captured logits.",
        "inconclusive": "Whether the captured logits help on as many tokens is undecided.",
    },
    "equal compute": {
        "confirmed": "They pay for the teacher's one pass over the text: cross-entropy with that compute, and with the best "
        "number of epochs, stays behind.",
        "refuted": "They do not pay for the teacher's pass: cross-entropy with that compute, or with the best number of epochs, "
        "is better. More uses of each pass, several students of one capture, or a teacher that is stronger on these texts would "
        "change the balance.",
        "inconclusive": "Whether they pay for the teacher's pass is undecided: cross-entropy with that compute, or with the best "
        "number of epochs, is neither clearly better nor clearly worse. More uses of each pass, several students of one capture, "
        "or a teacher that is stronger on these texts would change the balance.",
    },
    "start": {
        "confirmed": "Weights that come from the teacher are worth having: a fresh start of the same shape stays behind.",
        "refuted": "A fresh start of the same shape is better than the teacher's weights.",
        "inconclusive": "Whether the teacher's weights are a better start than random ones is undecided.",
    },
    "TAID": {
        "confirmed": "TAID in place of forward KL is better.",
        "refuted": "TAID in place of forward KL is worse.",
        "inconclusive": "TAID in place of forward KL is not told apart from it.",
    },
    "40M": {
        "confirmed": "At 40M the student is better too, at equal tokens and at equal compute.",
        "refuted": "At 40M cross-entropy is better, at equal tokens or at equal compute.",
        "inconclusive": "At 40M it is undecided.",
    },
}


def said(results):
    """What it says and what not."""
    found = " ".join(meanings[results["verdicts"][claim]] for claim, meanings in SAID.items())
    return (
        f"{found}\n\nIt says this of children's stories, of one teacher that is an assistant and not a writer of them, and of "
        "models that are good for these alone: other text loses far more. Cut, learning rate and objective were chosen for the "
        "student, by the held-out stories; cross-entropy takes part at the same learning rate, and at its best number of epochs. "
        "Bits per byte of the teacher are of its whole vocabulary and of the file that llama.cpp runs. Speeds are of one busy "
        "machine, which is why they are given as ratios of turns of the same round."
    )


def kernels():
    """How attention was computed, which changed between the arms."""
    nats = read("performance/attention.json")["losses"]["nats_per_token"]
    return (
        "While the arms were trained, attention on a CPU in bfloat16 got a faster kernel. The students of 20M, the first seed of "
        "their cross-entropy at equal tokens and the first two students of 40M were trained with PyTorch's fused attention, all "
        f"others with plain products. Between the two SmolLM2 itself differs by {abs(nats['plain'] - nats['fused']):.4f} nats a "
        "token of a hundred of these stories ([performance](../performance.md))."
    )


def page(folder="smollm2"):
    """The whole page."""
    results, files, found = (read(f"{folder}/{name}.json") for name in ("results", "files", "tasks"))
    timed = files["timed"]
    items = ", ".join(f"{number:,} items of {TASKS[task]}" for task, number in found["items"].items())
    return (
        "\n\n".join(
            [
                "# A real language model made small for children's stories",
                sentence(results, files),
                claims(folder),
                "![Bits per byte of held-out stories over megabytes and over tokens a second](quality.svg)",
                setting(results),
                "## What it says",
                said(results),
                "## Levels",
                "Nats are per token of the kept vocabulary; 95 % intervals over held-out stories and seeds.",
                marked("levels", levels(results)),
                "## The student in llama.cpp",
                f"`limbeck export` wrote the files, and llama.cpp (xllamacpp {files['versions']['xllamacpp']}) runs them. "
                f"Bits per byte are of all {files['documents']} held-out stories by its logits. Speeds: {timed['read']} tokens "
                f"read and {timed['written']} written after them, one thread of {files['machine']}, all files in turn.",
                marked("files", sizes(files)),
                "## What they write",
                texts(files),
                "## Standard tasks",
                f"Chosen before they were measured, for what they say of stories: {items}. BLiMP asks for grammar, and half is "
                "guessing; LAMBADA for a last word that follows from a whole passage of a novel. Differences are paired by item. "
                "Cross-entropy is that of equal tokens or of equal FLOPs, whichever has the fewer held-out nats.",
                marked("tasks", tasks(found)),
                "## What was tried before",
                "After 200k tokens on another seed, in nats per token.",
                marked("cuts", cuts(results)),
                marked("trials", trials(results)),
                "## Cost",
                marked("cost", cost(results)),
                stopped(results),
                kernels(),
                "## Make it again",
                "```sh\nbash docs/results/smollm2.sh\n```",
                "Each command of it continues where it was stopped. `results.json`, `files.json` and `tasks.json` hold the "
                "numbers, `20m/` and `40m/` what the runs wrote down.",
            ]
        )
        + "\n"
    )


def write(folder="smollm2"):
    """Writes the page and its picture into a folder of results."""
    place = HERE / folder
    (place / "README.md").write_text(page(folder), encoding="utf-8")
    picture = drawn(read(f"{folder}/files.json"), read(f"{folder}/results.json"))
    (place / "quality.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    write(*sys.argv[1:])
