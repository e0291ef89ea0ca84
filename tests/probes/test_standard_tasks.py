"""Standard tasks through lm-eval: the same scores as its own model `hf`, tasks in files, and mistakes."""

import json
import random

import numpy as np
import pytest
import torch

from limbeck.errors import BadTask, Mismatch
from limbeck.models.save import save
from limbeck.probes.standard.evaluate import evaluate, load_tasks
from tests.helpers.models import llama, tokenizer

pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("ignore")]

CHOICES = [
    {"prompt": "the cat ", "choices": ["sat on a mat", "ran"], "gold": 0},
    {"prompt": "a dog", "choices": [" ran past", " sang", " of rain and sun"], "gold": 1},
    {"prompt": "", "choices": ["two red birds", "birds red two"], "gold": 0},
    {"prompt": "12", "choices": ["3", "4"], "gold": 1},
]
YAML = """task: answers
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["\\n", "the"], max_gen_toks: 40, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def requests(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


@pytest.mark.parametrize("bos", [True, False])
def test_scores_are_those_of_lm_evals_own_model(bos):
    from lm_eval.models.huggingface import HFLM

    from limbeck.probes.standard.harness import HarnessLM

    model = llama()
    if not bos:
        model.tokenizer.bos_token = None
    ours = HarnessLM(model)
    theirs = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=1)
    pairs = [(row["prompt"], choice) for row in CHOICES for choice in row["choices"]]
    pairs += [("the cat  ", "sat"), ("", "the"), ("a dog ran", " past two red birds " * 5), ("a\n", "b"), ("né", "é")]
    asked = requests("loglikelihood", pairs)
    for (a, greedy_a), (b, greedy_b) in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked), strict=True):
        assert a == pytest.approx(b, abs=1e-4)
        assert greedy_a == greedy_b
    texts = requests("loglikelihood_rolling", [("the cat sat on a mat " * 40,), ("dog",)])
    np.testing.assert_allclose(ours.loglikelihood_rolling(texts), theirs.loglikelihood_rolling(texts), atol=1e-3)
    how = {"until": ["q", "\n\n"], "max_gen_toks": 40, "do_sample": False}
    prompts = requests("generate_until", [("the cat", how), ("two red birds sang of rain", how)])
    assert ours.generate_until(prompts) == theirs.generate_until(prompts)


def test_batches_of_questions_have_little_padding():
    """Of 16 tokens at most; from 4 tokens on, a row that is a tenth shorter begins another."""
    from limbeck.probes.standard.harness import _batches

    lengths = [20, 8, 8, 8, 2, 2, 1, 1]
    rows = [tuple(range(length)) for length in lengths]
    found = [[len(row) for row in batch] for batch in _batches(rows, 16)]
    assert found == [[20], [8, 8], [8], [2, 2], [1, 1]]


def test_files_are_tasks_and_random_states_stay(tmp_path):
    write(tmp_path / "data.jsonl", [{"q": "the cat", "a": "sat"}])
    (tmp_path / "answers.yaml").write_text(YAML)
    names = [
        write(tmp_path / "choices.jsonl", CHOICES),
        write(tmp_path / "pairs.jsonl", [{"sentence_good": "the cat sat", "sentence_bad": "cat the sat"}]),
        write(tmp_path / "last.jsonl", [{"prompt": "the cat", "target": " sat"}]),
        write(tmp_path / "text.jsonl", [{"text": "the cat sat on a mat"}]),
        str(tmp_path / "answers.yaml"),
    ]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()
    loaded, model = load_tasks(names), llama()
    found = {one.task: one for one in evaluate(model, loaded)}
    assert [one.row() for one in found.values()] == [one.row() for one in evaluate(model, loaded)]
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.random.get_rng_state(), states[2])
    assert list(found["choices"].columns) == ["acc", "acc_bytes", "margin", "nats", "bytes"]
    assert found["choices"].chance.tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 2, 1 / 2])
    assert found["choices"].columns["bytes"].tolist() == [12.0, 5.0, 13.0, 1.0]
    right = found["choices"].columns["margin"] > 0
    assert found["choices"].columns["acc"].tolist() == right.astype(float).tolist()
    assert found["last"].columns["bytes"].tolist() == [4.0]
    assert found["text"].columns["bytes"].tolist() == [20.0]
    assert list(found["answers"].columns) == ["exact_match"]


def test_unknown_tasks_and_items_without_gold_are_refused(tmp_path):
    with pytest.raises(BadTask, match=r"'piqaa'; did you mean .*'piqa'"):
        load_tasks(("piqaa",))
    with pytest.raises(BadTask, match="does not exist"):
        load_tasks((str(tmp_path / "none.yaml"),))
    write(tmp_path / "data.jsonl", [{"q": "a", "a": 0}, {"q": "a", "a": -1}])
    text = YAML.replace("generate_until", "multiple_choice").replace('"{{a}}"', '"{{a}}"\ndoc_to_choice: ["b", "c"]')
    (tmp_path / "blind.yaml").write_text(text.replace("exact_match", "acc"))
    with pytest.raises(BadTask, match="task answers, item 1: expected a right answer"):
        load_tasks((str(tmp_path / "blind.yaml"),))
    (tmp_path / "broken.yaml").write_text(
        "task: broken\ndataset_path: json\ndataset_kwargs: {data_files: none.jsonl}\n"
    )
    with pytest.raises(BadTask, match="lm-eval cannot load it"):
        load_tasks((str(tmp_path / "broken.yaml"),))


def test_texts_longer_than_the_context_are_refused(tmp_path):
    model = llama()
    model.config.max_position_embeddings = 16
    name = write(
        tmp_path / "long.jsonl", [{"prompt": "the cat " * 40, "target": "sat"}, {"prompt": "a", "target": " b"}]
    )
    with pytest.raises(Mismatch, match="1 of 2 questions are longer than the context"):
        evaluate(model, load_tasks((name,)))


def test_probe_beside_a_teacher_with_another_tokenizer(tmp_path):
    import limbeck

    name = write(tmp_path / "choices.jsonl", CHOICES)
    model, teacher = tmp_path / "model", tmp_path / "teacher"
    save(llama(), model)
    save(llama(tok=tokenizer(270), seed=1), teacher)
    found = limbeck.probe(str(model), probe="tasks", tasks=name, teacher=str(teacher), device="cpu", threads=1)
    wanted = {"acc, choices", "teacher_acc, choices", "acc_minus_teacher, choices", "acc_mcnemar_p_teacher, choices"}
    assert wanted <= found.readings.keys()
    assert found.readings["bits_per_byte_minus_teacher, choices"].n == 4
