"""A teacher converted to other mixers: exact where it keeps attention, its copied weights elsewhere, and its refusals."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from limbeck.errors import BadModel
from limbeck.models.build import new_model
from limbeck.models.decoder import LimbeckConfig
from limbeck.models.load import load
from limbeck.models.mixers.attention import Attention
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.pattern import build, pattern_of
from limbeck.models.save import save
from limbeck.models.stored import StoredModel
from limbeck.students.convert import Maps, check_family, convert, initialise
from tests.helpers.models import batch, llama, tokenizer

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig])
@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_attention_everywhere_is_the_teacher(kind, tied, tmp_path):
    changes = {"head_dim": 6, "tie_word_embeddings": tied, "rms_norm_eps": 1e-5}
    changes |= (
        {"sliding_window": None}
        if kind is MistralConfig
        else {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    )
    teacher = new_model(kind(**SHAPE | changes), tokenizer(), 0)
    for parameter in teacher.model.parameters():  # norms too
        parameter.add_(0.1 * torch.randn_like(parameter))
    student = convert(teacher, ["attention", "attention"])
    assert student.parameters_count == teacher.parameters_count
    assert (student(batch()).logits() - teacher(batch()).logits()).abs().max() < 2e-5
    save(student, tmp_path / "student")
    assert (load(tmp_path / "student")(batch()).logits() - teacher(batch()).logits()).abs().max() < 2e-5


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_teacher_on_disk_gives_the_same_student(tied, dtype, tmp_path):
    teacher = new_model(LlamaConfig(**SHAPE, tie_word_embeddings=tied), tokenizer(), 0)
    teacher.model.save_pretrained(tmp_path / "teacher", max_shard_size="20KB")
    teacher.tokenizer.save_pretrained(tmp_path / "teacher")
    made = []
    for base in (load(tmp_path / "teacher", dtype=dtype), StoredModel.open(tmp_path / "teacher", dtype=dtype)):
        torch.manual_seed(0)
        made.append(convert(base, ["gdn", "based:4"]))
    ours, theirs = (model.model.state_dict() for model in made)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == dtype for name in ours)
    assert made[0].lineage == made[1].lineage


@torch.no_grad()
def test_layers_with_attention_are_unchanged_and_the_others_list_copied_weights():
    teacher = llama(layers=4)
    student = convert(teacher, pattern_of("attention,based:8,gdn,swa:128"))
    rows = student.lineage["converted"]
    assert [row["mixer"] for row in rows] == student.config.mixers == ["attention", "based:8", "gdn", "swa:128"]
    assert rows[0]["fresh"] == rows[1]["fresh"] == rows[3]["fresh"] == "nothing"
    assert "gates" in rows[2]["fresh"]
    x, documents = torch.randn(2, 9, 32), Documents.alone(2, 9)
    attention, layer = teacher.model.model.layers[3].self_attn, student.model.model.layers[3]
    rotary = teacher.model.model.rotary_emb(x, documents.position)
    theirs = attention(x, position_embeddings=rotary, attention_mask=None)[0]
    assert (layer.mixer.parallel(x, documents) - theirs).abs().max() < 1e-5
    assert student(batch()).hidden.isfinite().all()


def pieces(text: str, *, kv_heads: int = 2):
    """An attention layer, a mixer with the weights copied from it, and its report."""
    torch.manual_seed(0)
    dims = LimbeckConfig(**SHAPE | {"num_key_value_heads": kv_heads}).dims(0)
    attention, mixer = Attention(dims, rope=True), build(text, dims)
    return attention, mixer, initialise(mixer, attention)


def scores(mixer, x: torch.Tensor) -> torch.Tensor:
    """q · k of each head, before maps, norms and convolutions."""
    q, k = (getattr(mixer, f"{n}_proj")(x).unflatten(-1, (4, -1)).transpose(0, 1) for n in "qk")
    return q @ k.mT


@pytest.mark.parametrize(
    "text", ["based:8", "based:16", "linear:map=identity,features=8", "linear:elu", "gla", "gdn", "deltanet", "retnet"]
)
@torch.no_grad()
def test_scores_and_values_are_attentions_at_distance_0(text):
    attention, mixer, _ = pieces(text)
    maps, x = Maps.of(attention), torch.randn(10, 32)
    theirs = torch.einsum("hkd,td,hke,se->hts", maps.q, x, maps.k, x)
    ours = scores(mixer, x)
    if text == "gla":  # half the channels: the nearest of that rank
        u, s, vh = torch.linalg.svd(maps.q.mT @ maps.k)
        theirs = torch.einsum("td,hdr,hr,hre,se->hts", x, u[..., :4], s[:, :4], vh[:, :4], x)
    ratio = {"linear:elu": 8**-0.5, "based:16": 2**0.5, "gla": 0.5**0.5}.get(text, 1.0)
    assert (ours - ratio * theirs).abs().max() < 1e-4
    v = mixer.v_proj(x).unflatten(-1, (4, -1))[..., :8]
    through = mixer.o_proj.weight.unflatten(1, (4, -1))[..., :8]
    theirs = attention.o_proj(attention.v_proj(x).unflatten(-1, (2, -1)).repeat_interleave(2, -2).flatten(-2))
    assert torch.allclose(torch.einsum("thk,dhk->td", v, through), theirs, atol=1e-5)


@torch.no_grad()
def test_taylor_of_small_scores_is_nearly_attention():
    """With scores near 0 and without positions, 1 + s + s²/2 is close to exp(s), and so the output to attention's."""
    dims = LimbeckConfig(**SHAPE).dims(0)
    torch.manual_seed(0)
    attention, mixer = Attention(dims, rope=False), build("based:8", dims)
    attention.q_proj.weight.mul_(0.5)
    initialise(mixer, attention)
    x, documents = torch.randn(2, 12, 32), Documents.alone(2, 12)
    theirs, ours = attention.parallel(x, documents), mixer.parallel(x, documents)
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("text", ["conv", "mamba2", "hyena", "rwkv4", "s4d"])
def test_what_can_take_nothing_of_attention_is_refused_by_name(text):
    with pytest.raises(BadModel, match=rf"put into {text}.*converted to attention, based, .*swa"):
        convert(llama(), ["attention", text])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Qwen2Config(**SHAPE), "a qwen2 model cannot be converted: its layers have self_attn.k_proj.bias"),
        (Qwen3Config(**SHAPE), "a qwen3 model cannot be converted: its layers have self_attn.k_norm.weight"),
        (GPT2Config(), "a gpt2 model cannot be converted: its layers are not those of our decoder"),
        (MistralConfig(**SHAPE, sliding_window=16), "has a window of 16 tokens"),
        (LlamaConfig(**SHAPE, attention_bias=True), r"self_attn\.k_proj\.bias"),
        (LlamaConfig(**SHAPE, hidden_act="gelu"), "has gelu where ours has silu"),
        (
            LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            "scaled .linear",
        ),
        (LimbeckConfig(**SHAPE), "a limbeck model cannot be converted"),
    ],
)
def test_teachers_that_are_not_our_decoder_are_refused_with_the_reason(config, reason):
    with pytest.raises(BadModel, match=reason):
        check_family(config)


def test_a_pattern_is_read_with_repeats_and_options():
    assert pattern_of("attention*1, gdn*3") == ["attention", "gdn", "gdn", "gdn"]
    assert pattern_of("linear:elu,features=8,swa:4") == ["linear:elu,features=8", "swa:4"]
    for text, message in (("atention,gdn", "nearest is 'attention'"), ("gdn*0", "behind"), ("", "no mixer")):
        with pytest.raises(BadModel, match=message):
            pattern_of(text)
