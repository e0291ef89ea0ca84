"""A teacher on a server: what it is asked, what is believed, and how loudly it fails."""

import pytest
import torch

from limbeck.teachers.http import Address, Patience
from limbeck.teachers.served import connect
from limbeck.types import Batch
from tests.models import batch, frozen, llama, tokenizer
from tests.served import serving

LENGTH = 16
HASTY = Patience(tries=5, limit=0.5, first=0.01, longest=0.05)


@pytest.fixture(scope="module")
def model():
    return frozen(llama(tok=tokenizer(), seed=2))


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("LIMBECK_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def teacher_of(server, model, *, k: int = 8, **keys):
    return connect(Address.of(server.url), model.tokenizer, k=k, length=LENGTH, **({"patience": HASTY} | keys))


def check_against(model, one: Batch, told) -> int:
    """Every position that counts and has an answer has the model's likeliest; gives how many of those have none."""
    log_p = model(one).logits().log_softmax(-1)
    counts = one.weight.reshape(-1) > 0
    sure = counts & told.answered
    likeliest = log_p.topk(told.ids.shape[1])
    torch.testing.assert_close(told.log_p[sure], likeliest.values[sure], atol=2e-4, rtol=0)
    torch.testing.assert_close(log_p.gather(-1, told.ids)[sure], told.log_p[sure], atol=2e-4, rtol=0)
    others = log_p.scatter(-1, likeliest.indices, -torch.inf).logsumexp(-1)
    torch.testing.assert_close(told.rest[sure], others[sure], atol=2e-3, rtol=0)
    return int((counts & ~told.answered).sum())


@pytest.mark.parametrize(("speaks", "named"), [("vllm", "vLLM"), ("sglang", "SGLang")])
def test_a_server_says_what_the_model_in_memory_does(model, speaks, named):
    """Rows of several documents; also at the last position of each, of which a server says nothing by itself."""
    with serving(model, speaks) as server, teacher_of(server, model) as teacher:
        assert named in teacher.kind.name
        for seed in range(3):
            one = batch(4, LENGTH, vocab=model.vocab, seed=seed)
            one.weight[:, -1] = 1
            assert check_against(model, one, teacher(one)) == 0
    assert not teacher.unanswered
