"""The cache of a model is used, by any name that Transformers gives it."""

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, GenerationMixin, LlamaConfig, LlamaForCausalLM

from limbeck.errors import BadModel
from limbeck.models import cached
from limbeck.models.cached import CACHE, NAMES, last_places, read_on
from limbeck.models.decoder import LimbeckForCausalLM
from tests.models.test_decoder import ALL, made

X = torch.arange(1, 10)[None]


def generated(model, x=X, **options):
    return model.generate(x, attention_mask=torch.ones_like(x), **{"max_new_tokens": 8, "do_sample": False} | options)


def llama(kind=LlamaForCausalLM):
    torch.manual_seed(0)
    return kind(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.3,
        )
    ).eval()


class Forgetting(LlamaForCausalLM):
    """Ignores a cache with another name, as a model for another version of Transformers does."""

    def forward(self, input_ids, mine=None, **others):
        return super().forward(input_ids, **{name: value for name, value in others.items() if name not in NAMES})


def losing(monkeypatch, *more):
    """Removes these entries from what generation passes on."""
    prepare = GenerationMixin.prepare_inputs_for_generation

    def lose(self, *args, **kwargs):
        return {name: v for name, v in prepare(self, *args, **kwargs).items() if name not in (*NAMES, *more)}

    monkeypatch.setattr(LimbeckForCausalLM, "prepare_inputs_for_generation", lose, raising=False)


def test_a_cache_goes_by_the_name_of_the_installed_transformers():
    outputs = made("conv")(X, use_cache=True)
    assert CACHE in outputs
    assert outputs[CACHE].get_seq_length() == 9


@torch.no_grad()
def test_a_cache_is_taken_by_either_name_and_not_by_both():
    model = made("conv", "attention")
    at_once = model(X, use_cache=False).logits[:, -1]
    for name in NAMES:
        kept = model(X[:, :5], use_cache=True)[CACHE]
        assert torch.allclose(model(X[:, 5:], **{name: kept}).logits[:, -1], at_once, atol=1e-6)
    with pytest.raises(BadModel, match="expected cache or past_key_values, which are one thing, got both"):
        model(X, cache=kept, past_key_values=kept)
    with pytest.raises(BadModel, match="expected the cache that an earlier call gave, got a DynamicCache"):
        model(X, cache=DynamicCache())


@torch.no_grad()
def test_a_mask_is_of_all_tokens():
    model = made("conv")
    kept = model(X[:, :5], use_cache=True)[CACHE]
    with pytest.raises(BadModel, match=r"an attention_mask of 9 tokens \(5 in the cache and 4 new\), got one of 4"):
        model(X[:, 5:], cache=kept, attention_mask=torch.ones(1, 4))
    with pytest.raises(BadModel, match=r"an attention_mask of 4 tokens \(0 in the cache and 4 new\), got one of 9"):
        model(X[:, 5:], attention_mask=torch.ones(1, 9))


@pytest.mark.parametrize("mixer", ["conv", "attention", "gdn", "mamba2"])
@pytest.mark.parametrize("mask", [(), ("attention_mask",)])
def test_generation_that_loses_the_cache_is_refused(mixer, mask, monkeypatch):
    losing(monkeypatch, *mask)
    model = made(mixer)
    with pytest.raises(
        BadModel, match=r"in another way than this model accepts|0 in the cache and 1 new.*got one of 3"
    ):
        generated(model)
    assert generated(model, use_cache=False).shape == (1, 17)


def test_the_first_generation_alone_is_checked_and_changes_nothing(monkeypatch):
    model = made(*ALL)
    model.generation_config = GenerationConfig(eos_token_id=3, max_new_tokens=4, num_beams=2)
    settings, state = model.generation_config.to_dict(), torch.random.get_rng_state()
    reads = []
    monkeypatch.setattr(type(model.model), "forward", counted(type(model.model).forward, reads))
    first = model.generate(X, attention_mask=torch.ones_like(X))
    before, settings_after = len(reads), model.generation_config.to_dict()
    again = model.generate(X, attention_mask=torch.ones_like(X))
    assert torch.equal(first, again)
    assert before - (len(reads) - before) == 4  # two of the prompt and one token each, two that compare
    assert settings == settings_after
    assert torch.equal(state, torch.random.get_rng_state())


def counted(forward, calls):
    def call(self, *args, **kwargs):
        calls.append(1)
        return forward(self, *args, **kwargs)

    return call


def test_a_text_that_continues_what_a_cache_holds_is_not_read_again():
    model = made(*ALL)
    whole = generated(model)
    begun = generated(model, max_new_tokens=3, return_dict_in_generate=True)
    assert torch.equal(generated(model, begun.sequences, max_new_tokens=5, **{CACHE: begun[CACHE]}), whole)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_model_continues_from_its_cache_as_in_one_pass(dtype):
    model = llama().to(dtype)
    first, kept = read_on(model, X[:, :5], None)
    second, kept = read_on(model, X[:, 5:], kept)
    at_once = model(X, use_cache=False).logits
    near = {"atol": 1e-6} if dtype == torch.float32 else {"atol": 0.1}
    assert torch.allclose(first, at_once[:, 4], **near)
    assert torch.allclose(second, at_once[:, 8], **near)
    assert kept.get_seq_length() == 9


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 3])
def test_the_head_reads_a_contiguous_batch_in_half_precision(count):
    """Else the product copies the head once a row."""
    model, tokens, read = llama().to(torch.bfloat16), torch.arange(1, 25).reshape(4, 6), []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    by_number = model(tokens, logits_to_keep=count).logits
    by_place = model(tokens, logits_to_keep=last_places(model, tokens, count)).logits
    assert [one.is_contiguous() for one in read] == [False, True]
    assert torch.equal(read[0], read[1])
    assert torch.allclose(by_number, by_place, atol=0.05)
    assert read_on(model, tokens, None)[0].shape == (4, 50)
    assert read[-1].is_contiguous()
    assert last_places(model, tokens[:1], count) == last_places(model.float(), tokens, count) == count


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_ignores_the_cache_is_refused(dtype):
    with pytest.raises(BadModel, match="Forgetting: expected a token read with the cache of the previous ones"):
        read_on(llama(Forgetting).to(dtype), X, None)


def test_a_refused_model_stays_refused():
    model = llama(Forgetting)
    for _ in range(2):
        with pytest.raises(BadModel):
            read_on(model, X, None)
    assert model not in cached._checked
