"""The doctor: what is said of pairs that belong together, and of each kind of pair or run that does not."""

import io
import json
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Gemma2Config, LlamaConfig, PreTrainedTokenizerFast

from limbeck.config import DistilSettings
from limbeck.errors import BadModel, Mismatch
from limbeck.jobs.common.sample import first_documents, of_text, unreadable
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.planning.checks import resources, vocabulary
from limbeck.planning.checks.finding import Finding, as_json, check, show
from limbeck.planning.checks.pair import Pair, PlannedRun, examine, gain
from limbeck.planning.cost import training as cost
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import estimate
from limbeck.teachers.ref import LocalRef

CPU = torch.device("cpu")
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"


@pytest.fixture(autouse=True)
def short_measurement(monkeypatch):
    """Rates are measured on fewer calls: these tests look at words, not at seconds."""
    monkeypatch.setattr(resources, "measure_rates", lambda size, *, dtype, device: cost.Rates(1e10, 1e9))


def words(count: int = 20, *, order: int = 1, **special) -> PreTrainedTokenizerFast:
    """A tokenizer of ``count`` words and five special tokens; ``order`` -1 gives the words their ids backwards."""
    names = ["<unk>", "<s>", "</s>", "<|end|>", "<pad>", *[f"w{i}" for i in range(count)][::order]]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece()
    usual = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **(usual | special))


def model(
    name: str, *, tokenizer=None, rows: int = 32, hidden: int = 16, config=LlamaConfig, **changes
) -> LanguageModel:
    shape = {"hidden_size": hidden, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 2, "head_dim": hidden // 2, "vocab_size": rows, "max_position_embeddings": 64}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    return new_model(config(**(shape | heads | ends | changes)), tokenizer or words(), 0, name=name)


def look(teacher, student, **changes) -> list[Finding]:
    usual = {"length": 32, "tokens": 10_000, "batch_tokens": 256, "dtype": torch.float32, "device": CPU}
    run = {name: changes.pop(name) for name in (*usual, "out") if name in changes}
    return examine(Pair(teacher, student), PlannedRun(**(usual | run)), **changes)


def said(findings: list[Finding], about: str, level: str) -> str:
    """What the findings of one check and level say, with their remedies."""
    found = [f"{f.message} | {f.remedy}" for f in findings if f.check == about and f.level == level]
    assert found, f"no {level} on {about!r} among {[(f.check, f.level) for f in findings]}"
    return "\n".join(found)


def test_a_pair_that_belongs_together_passes_without_a_warning():
    findings = look(model("large", hidden=32), model("small"))
    assert {f.level for f in findings} == {"ok"}
    check(findings)


def test_a_teacher_alone_can_be_looked_at():
    findings = look(model("large"), None)
    assert {f.level for f in findings} == {"ok"}
    assert not [f for f in findings if f.check in ("vocabulary", "size")]


def test_looking_changes_neither_model():
    pair = model("large", hidden=32), model("small")
    before = [{k: v.clone() for k, v in m.model.state_dict().items()} for m in pair]
    configs = [m.config.to_dict() for m in pair]
    look(*pair, texts=["w1 w2"])
    assert configs == [m.config.to_dict() for m in pair]
    for m, state in zip(pair, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in m.model.state_dict().items())


def test_other_vocabularies_are_an_error_that_names_tokens_and_remedy():
    findings = look(model("large", tokenizer=words(20)), model("small", tokenizer=words(20, order=-1)))
    text = said(findings, "vocabulary", "error")
    assert (
        "the teacher's tokenizer (large) has 25 tokens and the student's (small) 25, of which 5 are the same with the same id"
        in text
    )
    assert "'w0' (id 5, id 24)" in text
    assert "prune one from the teacher" in text
    with pytest.raises(Mismatch, match="the same with the same id"):
        check(findings)


def test_a_missing_token_is_an_error_too():
    findings = look(model("large", tokenizer=words(20)), model("small", tokenizer=words(19)))
    assert "'w19' (id 24, absent)" in said(findings, "vocabulary", "error")


def test_the_same_tokens_cut_another_way_are_a_warning():
    other = words()
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    text = said(look(model("large"), model("small", tokenizer=other)), "vocabulary", "warning")
    assert "splits text in another way" in text
    assert "teacher's tokenizer" in text


def test_unequal_padded_heads_are_allowed_with_a_note():
    findings = look(model("large", rows=40, hidden=32), model("small", rows=32))
    text = said(findings, "head", "ok")
    assert "large: 40 rows for 25 tokens; the 15 rows of padding are excluded on both sides" in text
    assert "small: 32 rows for 25 tokens" in text
    check(findings)


def test_a_head_lower_than_the_tokenizer_is_refused():
    with pytest.raises(Mismatch, match="25 tokens, but the head has only 24 rows"):
        model("broken", rows=24)


def test_a_token_that_only_a_text_can_spell_out_may_be_without_a_row():
    wide = words()
    wide.add_tokens(["<image>"])
    teacher = model("text", tokenizer=wide, rows=25)
    assert teacher.vocab == 25
    assert "text: 25 rows, none for 1 of the tokens of its tokenizer (<image>)" in said(
        look(teacher, None), "head", "warning"
    )
    wide.eos_token = "<image>"  # it would stand around every text
    with pytest.raises(Mismatch, match="26 tokens, but the head has only 25 rows"):
        model("text", tokenizer=wide, rows=25)


def test_ends_of_an_instructed_teacher_and_a_base_student_are_a_warning():
    instructed = model("chatty", tokenizer=words(eos_token="<|end|>"), eos_token_id=3)
    text = said(look(instructed, model("base")), "EOS", "warning")
    assert "teacher chatty has '<|end|>', student base '</s>'" in text
    assert "generation stops at [3] for teacher chatty, at [2] for student base" in text
    assert "set tokenizer.eos_token" in text


def test_other_openings_are_a_warning():
    text = said(look(model("a", tokenizer=words(bos_token="<|end|>")), model("b")), "BOS", "warning")
    assert "teacher a has '<|end|>', student b '<s>'" in text


def test_a_model_that_will_not_stop_at_its_own_end_is_a_warning():
    text = said(look(model("restless", eos_token_id=7), None), "EOS", "warning")
    assert "restless: documents end with '</s>' (id 2), generation stops at [7]" in text
    assert "include 2" in text


def test_a_tokenizer_without_an_end_is_a_warning_and_without_padding_is_fine():
    endless = model("endless", tokenizer=words(eos_token=None))
    assert "no end-of-document token" in said(look(endless, None), "EOS", "warning")
    assert "no pad token: packed rows need none" in said(look(model("large"), None), "special tokens", "ok")


def test_conversations_need_a_template():
    findings = look(model("base"), None, chat=True)
    assert "tokenizer of teacher base has no chat template" in said(findings, "chat template", "error")
    assert "instructed teacher" in said(findings, "chat template", "error")
    assert not [f for f in look(model("base"), None) if f.check == "chat template"]


def test_templates_are_compared_by_their_text():
    talking = words()
    talking.chat_template = TEMPLATE
    teacher, same = model("large", tokenizer=talking), model("same", tokenizer=words())
    assert "student same: none" in said(look(teacher, same, chat=True), "chat template", "warning")
    same.tokenizer.chat_template = TEMPLATE + " "
    assert "student same: another" in said(look(teacher, same, chat=True), "chat template", "warning")
    same.tokenizer.chat_template = TEMPLATE
    assert "and student's" in said(look(teacher, same, chat=True), "chat template", "ok")


def test_rows_longer_than_a_context_are_an_error_with_both_numbers():
    findings = look(model("large"), model("short", max_position_embeddings=16), length=32)
    text = said(findings, "context", "error")
    assert "--seq-len 32 is longer than the context of short, 16 tokens" in text
    assert "use --seq-len 16 or less" in text
    with pytest.raises(Mismatch, match="--seq-len 16"):
        check(findings)


def test_soft_caps_are_reported_and_may_differ():
    capped = model("gemma", config=Gemma2Config, final_logit_softcapping=30.0)
    text = said(look(capped, model("plain")), "logits", "ok")
    assert "gemma: scale 1, soft cap 30; plain: scale 1, no soft cap" in text


def test_text_the_tokenizer_cannot_read_is_a_warning_or_an_error():
    teacher = model("large")
    assert "0.0% of the characters lost" in said(look(teacher, None, texts=["w1 w2", "w3"]), "data", "ok")
    some = said(look(teacher, None, texts=["w1 w2 w3 zz"]), "data", "warning")
    assert "no tokens for 25% of the characters of the data ('z')" in some
    most = look(teacher, None, texts=["all of it is foreign w1"])
    assert "take a teacher trained on such text" in said(most, "data", "error")


def test_special_tokens_spelled_out_in_a_text_are_not_lost():
    assert "0.0% of the characters lost" in said(look(model("large"), None, texts=["<s> w1 </s>"]), "data", "ok")


# What of a text is read


def sample_of(
    tmp_path: Path, *rows: dict, template: str | None = TEMPLATE, **special
) -> tuple[list[Finding], list[Finding]]:
    """(what is said of a text, and of its faulty records) for a teacher with this template."""
    talking = words(**special)
    talking.chat_template = template
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = DistilSettings(teacher="none", data=str(tmp_path / "a.jsonl"))
    sample, teacher = first_documents(settings, LocalRef("none")), model("large", tokenizer=talking)
    return list(of_text(sample, teacher)), list(unreadable(sample, teacher))


ASKED, ANSWER = {"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}


def test_what_a_template_does_not_print_is_named_with_its_share_and_an_example(tmp_path):
    thought = {**ANSWER, "reasoning_content": "first I think of the moon"}
    tool = {"type": "function", "function": {"name": "weather_of", "description": "of a town"}}
    rows = [{"messages": [ASKED, thought if i else ANSWER], "tools": [tool]} for i in range(4)]
    found, faulty = sample_of(tmp_path, *rows)
    assert faulty == []
    warned = said(found, "fields", "warning")
    assert "'messages.reasoning_content' reaches no token in 3 of the 3 conversations that have it" in warned
    assert "(such as 'first I think of the moon')" in warned
    assert "'tools.function.name' reaches no token in 4 of the 4" in warned
    assert "'messages.content'" not in warned
    prints = "{{ tools | tojson }}{% for m in messages %}{{ m.reasoning_content or '' }}{{ m.content }}</s>{% endfor %}"
    assert [f for f in sample_of(tmp_path, *rows, template=prints)[0] if f.check == "fields"] == []


def test_fields_that_are_not_read_are_named_and_warned_of_where_they_speak(tmp_path):
    found, _ = sample_of(tmp_path, {"text": "w1", "title": "a"}, {"text": "w2"})
    assert "not read, of 2 records: 'title' (50 %)" in said(found, "fields", "ok")
    found, _ = sample_of(tmp_path, {"messages": [ASKED, ANSWER], "rejected": "w3", "id": 7})
    assert "not read, of 1 records: 'rejected' (100 %)" in said(found, "fields", "warning")


def test_the_form_of_records_and_skipped_files_are_reported(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text('{"instruction": "w1", "output": "w2"}\n')
    (tmp_path / "texts" / "b.md").write_text("no")
    sample = first_documents(DistilSettings(data=str(tmp_path / "texts")), LocalRef("none"))
    found = list(of_text(sample, model("large")))
    assert "the documents are read as Alpaca; 1 files of other kinds are skipped (b.md)" in said(
        found, "text", "warning"
    )


def test_records_that_cannot_be_read_are_reported_by_the_first(tmp_path):
    rows = [{"messages": [ASKED, ANSWER]}, {"body": "b"}, {"messages": [ASKED]}]
    (fault,) = sample_of(tmp_path, *rows)[1]
    assert fault.level == "error"
    assert fault.message.startswith("2 of the first 3 records cannot be read; the first: ")
    assert "a.jsonl:2: expected 'text' or 'messages'" in fault.message


def test_a_turn_whose_end_does_not_stop_generation_is_a_warning(tmp_path):
    other = TEMPLATE.replace("</s>", " <|end|>")
    warned = said(sample_of(tmp_path, {"messages": [ASKED, ANSWER]}, template=other)[0], "EOS", "warning")
    assert "the assistant's turns end with '<|end|>' (id 3), generation of large stops at 2" in warned
    usual = TEMPLATE.replace("</s>", " </s>")
    assert [f for f in sample_of(tmp_path, {"messages": [ASKED, ANSWER]}, template=usual)[0] if f.check == "EOS"] == []


def test_weights_that_are_not_numbers_are_an_error_of_the_model():
    broken = model("broken")
    with torch.no_grad():
        broken.model.lm_head.weight[3, 4] = float("nan")
    findings = look(model("large"), broken)
    assert "broken has NaN or infinite values in 1 tensors, lm_head.weight first" in said(findings, "weights", "error")
    with pytest.raises(BadModel, match="copy them again"):
        check(findings)


def test_sizes_that_do_not_suit_are_warnings():
    far = said(look(model("large", hidden=128), model("tiny", hidden=8)), "size", "warning")
    assert "2.5 times their size" in far
    assert "arXiv 2311.07052" in far
    swapped = said(look(model("small"), model("large", hidden=32)), "size", "warning")
    assert "not swapped" in swapped


def test_half_precision_on_a_processor_without_it_is_a_warning(monkeypatch):
    monkeypatch.setattr(resources, "multiplies_bfloat16", lambda device: False)
    text = said(look(model("large"), None, dtype=torch.bfloat16), "dtype", "warning")
    assert "4 times slower" in text
    assert "--dtype float32" in text
    monkeypatch.setattr(resources, "multiplies_bfloat16", lambda device: True)
    assert "bfloat16 on cpu" in said(look(model("large"), None, dtype=torch.bfloat16), "dtype", "ok")


Room = namedtuple("Room", "total available")


@pytest.mark.parametrize(
    ("total", "free", "level"), [(2, 0, "ok"), (0.9, 0, "error"), (9, -0.5, "warning"), (9, 0.9, "ok")]
)
def test_memory_is_held_against_all_and_against_what_is_free(monkeypatch, total, free, level):
    """``total`` and ``free`` in units of the estimate; free is beside what this process already holds."""
    teacher = model("large")
    own = resources.psutil.Process().memory_info().rss
    plan = estimate(Size.of(teacher.config), None, length=32, tokens=1, batch_tokens=256, itemsize=4, device="cpu")
    room = Room(int(total * plan.peak_bytes), int((1.3 + free) * plan.peak_bytes) - own)
    monkeypatch.setattr(resources, "_CGROUP_LIMITS", ())
    monkeypatch.setattr(resources.psutil, "virtual_memory", lambda: room)
    text = said(look(teacher, None), "memory", level)
    assert "at the peak" in text
    assert ("a shorter sequence length" in text) == (level != "ok")


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text("1048576\n")
    unlimited = tmp_path / "other.max"
    unlimited.write_text("max\n")
    monkeypatch.setattr(resources, "_CGROUP_LIMITS", (limit, unlimited, tmp_path / "absent"))
    assert "cpu has 1 MiB" in said(look(model("large"), None), "memory", "error")


Disk = namedtuple("Disk", "free")


@pytest.mark.parametrize(("free", "level"), [(10**12, "ok"), (10**6, "warning"), (10**3, "error")])
def test_a_full_disk_is_seen_before_the_folder_exists(monkeypatch, tmp_path, free, level):
    asked = []
    monkeypatch.setattr(resources.psutil, "disk_usage", lambda path: asked.append(path) or Disk(free))
    text = said(look(model("large", hidden=32), None, out=tmp_path / "runs" / "new"), "disk", level)
    assert asked == [str(tmp_path)]
    assert ("--out on another disk" in text) == (level != "ok")


def test_the_time_is_reported():
    text = said(look(model("large"), None), "time", "ok")
    assert "for each training of 10,000 tokens" in text
    assert [resources._time(s) for s in (3, 150, 9000, 300_000)] == ["3 s", "2.5 min", "2.5 hours", "3.5 days"]


def test_a_teacher_that_is_not_better_is_a_warning():
    assert gain(1.2, 1.5).level == "ok"
    worse = gain(1.5, 1.5)
    assert worse.level == "warning"
    assert "the teacher is at 1.500 nats per token" in worse.message
    assert "--objective CrossEntropy" in worse.remedy


def test_all_errors_are_in_one_message_and_nothing_else():
    findings = [
        Finding("context", "error", "rows too long", "cut them"),
        Finding("size", "warning", "quite large", "mind it"),
        Finding("weights", "error", "NaN", "copy again"),
    ]
    with pytest.raises(Mismatch) as caught:
        check(findings)
    assert str(caught.value) == "context: rows too long; cut them\nweights: NaN; copy again"
    check([replace(finding, level="warning") for finding in findings])


def test_findings_are_stored_as_json_and_shown_whole():
    findings = look(model("large"), model("small", max_position_embeddings=16, rows=30), length=32)
    assert json.loads(json.dumps(as_json(findings))) == as_json(findings)
    assert {tuple(row) for row in as_json(findings)} == {("check", "level", "message", "remedy")}
    console = Console(width=100, record=True, file=io.StringIO())
    show(findings, console)
    shown = " ".join(console.export_text().split())
    for finding in findings:
        assert " ".join(finding.message.split()[:3]) in shown
    assert "→ use --seq-len 16 or less" in shown


def test_markup_in_a_name_is_printed_as_it_is(capsys):
    show([Finding("size", "ok", "model [red]x[/red] fits")], Console(width=80))
    assert "[red]x[/red]" in capsys.readouterr().out


MODELS = {
    "stories": "stories-llama-260k",
    "xs": "stories-llama-xs-279k",
    "gpt2": "stories-gpt2-280k",
    "characters": "babyllama-char105-940k",
    "poems": "tangpoem-llama-750k",
    "page": "slm4096-gpt2-212k",
}


@pytest.fixture(scope="module")
def real(test_data: Path) -> dict[str, LanguageModel]:
    return {name: load(test_data / "models" / folder) for name, folder in MODELS.items()}


@pytest.mark.parametrize(("teacher", "student"), [("stories", "xs"), ("stories", "gpt2"), ("gpt2", "stories")])
def test_real_models_of_one_tokenizer_pass(real, teacher, student):
    findings = look(real[teacher], real[student])
    check(findings)
    assert "512 tokens, the same ids in both" in said(findings, "vocabulary", "ok")
    assert "documents begin with '<s>' (id 1), end with '<s>' (id 1)" in said(findings, "special tokens", "ok")


@pytest.mark.parametrize(("teacher", "student"), [("poems", "stories"), ("stories", "poems"), ("characters", "xs")])
def test_real_models_of_other_tokenizers_are_refused(real, teacher, student):
    with pytest.raises(Mismatch, match="the first that differ"):
        check(look(real[teacher], real[student]))


def test_a_real_model_without_special_tokens_is_noticed(real):
    assert "no end-of-document token" in said(look(real["page"], None), "EOS", "warning")


def test_a_real_model_is_not_stretched_beyond_its_context(real):
    assert "256 tokens" in said(look(real["stories"], real["xs"], length=257), "context", "error")


def test_real_text_in_another_language_is_noticed(real, stories):
    texts = [json.loads(line)["text"] for line in stories.read_text(encoding="utf-8").splitlines()[:20]]
    assert next(vocabulary.coverage(real["stories"], texts)).level == "ok"
    assert next(vocabulary.coverage(real["poems"], texts)).level == "error"
