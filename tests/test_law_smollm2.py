"""What comes after the trainings of law-smollm2.sh: runs with made readings are judged, and their page is written."""

import hashlib
import json
import re
from itertools import chain, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from transformers import LlamaConfig

from limbeck.planning.cost.size import Size
from limbeck.probes.interval import Interval
from limbeck.students.shape import Shape, parse_shape
from tests.helpers.models import llama
from tests.helpers.pages import check_page
from tests.test_smollm2 import RESULTS, measured, script

DIGEST = "dd801021a871127e"  # of the criterion; it stood before the first run, and a change needs other seeds
LADDER = ("16m", "25m", "45m", "111m")
HIDDEN = {"start": 32, "16m": 48, "25m": 64, "45m": 96, "111m": 128, "whole": 128}
ROUND = 1000  # tokens of the text that students read
TWICE = 2 * ROUND
LEVELS = {  # nats per token of each run: a valley at the planned teacher, and text alone behind
    "same": {"16m": 2.1, "25m": 2.0, "45m": 2.05, "111m": 2.2, "whole": 2.4},
    "pruned": {"16m": 2.0, "25m": 2.0, "45m": 2.0, "111m": 2.0},
    "flops": {"25m": 2.05, "45m": 2.0, "111m": 1.9},
    "text-alone": {"tokens": 2.3, "flops": 2.25},
}
TEACHERS = {"16m": 1.9, "25m": 1.8, "45m": 1.7, "111m": 1.6, "whole": 2.2}
RATES = {"1e-3": 2.6, "2e-3": 2.5, "4e-3": 2.7}


def write_run(folder: Path, *, tokens: int = TWICE, seeds=(300, 301, 302)) -> None:
    about = {
        "plan": {"tokens": tokens, "arms": [{"name": "student", "seed": seed} for seed in seeds]},
        "teacher": {"passes": ROUND / tokens},
        "seconds": 60.0,
        "versions": {"limbeck": "0"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(about))


@pytest.fixture
def runs(tmp_path) -> Path:
    here = tmp_path / "runs"
    for name, hidden in HIDDEN.items():
        place = here / name if name in ("start", "whole") else here / "teachers" / name / "student"
        llama(hidden=hidden).config.save_pretrained(place)
    for kind, levels in LEVELS.items():
        for name, level in levels.items():
            write_run(here / kind / name)
            for seed in (300, 301, 302):
                measured(here / kind / name / "measurements" / f"student-seed{seed}.safetensors", level, seed - 300)
    for name, level in TEACHERS.items():
        measured(here / "same" / name / "measurements" / "teacher-seed300.safetensors", level, 0)
    for end in ("16m", "111m"):
        for rate, level in RATES.items():
            measured(here / "rates" / f"{end}-{rate}" / "measurements" / "student-seed290.safetensors", level, 0)
    return here


def judged(runs: Path, out: Path) -> dict:
    script("law-smollm2").judge(runs, out)
    return json.loads((out / "results.json").read_text())


def test_the_criterion_is_that_which_stood_before_the_first_run():
    criterion = script("law_smollm2_criterion")
    file = RESULTS / "law_smollm2_criterion.py"
    assert criterion.digest() == hashlib.sha256(file.read_bytes()).hexdigest()[:16] == DIGEST


@pytest.mark.long
def test_made_runs_are_judged_by_the_criterion(runs, tmp_path):
    found = judged(runs, tmp_path / "out")
    arms = ("same start, equal tokens", "pruned, equal tokens", "same start, equal FLOPs")
    claims = found["claims"]
    assert [claims[f"valley, {arm}"]["shape"] for arm in arms] == ["valley", "plateau", "falling"]
    assert [claims[f"valley, {arm}"]["verdict"] for arm in arms] == ["confirmed", "refuted", "refuted"]
    assert [claims[f"plan, {arm}"]["verdict"] for arm in arms] == ["confirmed", "confirmed", "refuted"]
    assert [claims[one]["verdict"] for one in ("healing", "text, equal tokens", "text, equal FLOPs")] == [
        "confirmed"
    ] * 3
    first = claims[f"valley, {arms[0]}"]["gains"]
    assert first["25m over 16m"]["value"] == pytest.approx(0.1)
    assert first["16m over 25m"]["value"] == pytest.approx(-0.1)
    assert claims["text, equal FLOPs"]["gains"]["25m over text"]["value"] == pytest.approx(0.2)
    assert found["levels"][arms[2]]["16m"] == found["levels"][arms[0]]["16m"], "the run that sets the FLOPs is in both"
    assert found["rate"] == {"chosen": 2e-3, "doubt": False, "tried": {"16m": RATES, "111m": RATES}} | {
        "tried": {
            end: {rate: pytest.approx(level, abs=0.01) for rate, level in RATES.items()} for end in ("16m", "111m")
        }
    }
    assert found["models"]["teachers"]["111m"]["nats"]["value"] == pytest.approx(1.6, abs=0.01)
    assert (found["criterion"], found["documents"], found["seeds"]) == (DIGEST, 40, [300, 301, 302])
    assert found["text_tokens"] == ROUND
    sizes = [found["models"]["teachers"][name]["parameters"] for name in LADDER]
    assert all(a < b for a, b in pairwise(sizes))


@pytest.mark.long
def test_a_rate_that_suits_one_end_decides_nothing(runs, tmp_path):
    for rate, level in {"1e-3": 2.3, "2e-3": 2.305, "4e-3": 2.9}.items():
        measured(runs / "rates" / f"16m-{rate}" / "measurements" / "student-seed290.safetensors", level, 0)
    assert judged(runs, tmp_path / "same")["rate"]["doubt"] is False  # by 0.005, which does not matter
    measured(runs / "rates" / "16m-1e-3" / "measurements" / "student-seed290.safetensors", 2.25, 0)
    found = judged(runs, tmp_path / "out")
    assert found["rate"]["chosen"] == 2e-3
    assert found["rate"]["doubt"] is True
    verdicts = {name: one["verdict"] for name, one in found["claims"].items()}
    assert {verdict for name, verdict in verdicts.items() if name.startswith(("valley", "plan"))} == {"inconclusive"}
    assert verdicts["healing"] == "confirmed"


def gains(levels, *, half=0.001, chance=0.001):
    """Differences between teachers with these levels, all with as narrow an interval."""
    found = {}
    for a in levels:
        for b in levels:
            value = levels[b] - levels[a]
            found[a, b] = Interval(value, value - half, value + half, 40), chance
    return found


@pytest.mark.parametrize(
    ("levels", "more", "shape", "valley", "plan"),
    [
        ((2.1, 2.0, 2.05, 2.1), {}, "valley", "confirmed", "confirmed"),
        ((2.1, 2.05, 2.0, 2.1), {}, "valley", "confirmed", "refuted"),
        ((2.1, 2.0, 2.05, 2.1), {"chance": 0.03}, "undecided", "inconclusive", "confirmed"),
        ((2.1, 2.0, 2.05, 2.1), {"half": 0.2, "chance": 0.3}, "undecided", "inconclusive", "inconclusive"),
        ((2.0, 2.004, 2.002, 2.001), {"chance": 0.5}, "plateau", "refuted", "confirmed"),
        ((2.3, 2.2, 2.1, 2.0), {}, "falling", "refuted", "refuted"),
        ((2.0, 2.005, 2.1, 2.2), {}, "rising", "refuted", "confirmed"),
    ],
)
def test_each_shape_has_its_verdict(levels, more, shape, valley, plan):
    criterion = script("law_smollm2_criterion")
    better = gains(dict(zip(LADDER, levels, strict=True)), **more)
    assert criterion.shape(better) == shape
    assert criterion.valley(better) == valley
    assert criterion.plan(better) == plan
    assert criterion.valley(better, doubt=True) == criterion.plan(better, doubt=True) == "inconclusive"


@pytest.mark.long
def test_students_have_as_many_flops(runs):
    study = script("law-smollm2")
    budget = study.spent(runs, "16m", TWICE)
    own = 3 * Size.of(llama(hidden=HIDDEN["start"]).config).forward_flops(512)
    once = Size.of(llama(hidden=HIDDEN["16m"]).config).forward_flops(512)
    assert budget == pytest.approx(own * TWICE + once * ROUND)
    for teacher in ("25m", "45m", "111m", "text"):
        tokens = study.tokens_at_equal_flops(runs, teacher)
        assert study.spent(runs, teacher, tokens) == pytest.approx(budget)
    counts = [study.tokens_at_equal_flops(runs, teacher) for teacher in ("text", "25m", "45m", "111m")]
    assert all(a > b for a, b in pairwise(counts))
    assert counts[0] > TWICE
    assert counts[-1] < ROUND, "a student of the largest reads less than the whole text, and only that much is captured"


def test_the_flags_of_the_script_are_those_of_the_study(runs, capsys):
    study = script("law-smollm2")
    study.main("shape", "25m")
    study.main("rate", runs)
    study.main("tokens", runs, "45m")
    shape, rate, tokens = capsys.readouterr().out.splitlines()
    assert shape == "--shape layers=16,hidden=384,heads=6,kv_heads=2,ffn=832"
    assert rate == "--lr 2e-3"
    assert tokens == f"--tokens {round(study.tokens_at_equal_flops(runs, '45m'))}"


def test_the_sizes_are_those_that_the_criterion_names():
    """With the 9,463 tokens that the flagship's stories use; the two halves and the held-out stories are those stories."""
    study = script("law-smollm2")
    whole = config_of(Shape(30, 576, 9, 3, 1536))
    found = {name: parse_shape(text, whole) for name, text in study.SHAPES.items()}
    assert [parse_shape(study.SHAPES["student"], config_of(found[name])) for name in LADDER] == [found["student"]] * 4
    parameters = {name: shape_parameters(one) for name, one in found.items()}
    expected = {"student": 10.2, "16m": 16.2, "25m": 25.3, "45m": 44.8, "111m": 111.7}
    assert {name: round(one / 1e6, 1) for name, one in parameters.items()} == expected
    assert parameters["25m"] / parameters["student"] == pytest.approx(2.5, abs=0.05)


def config_of(shape: Shape) -> LlamaConfig:
    """The configuration of a model pruned out of SmolLM2-135M."""
    return LlamaConfig(
        vocab_size=9463,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=64,
        tie_word_embeddings=True,
    )


def shape_parameters(shape: Shape, vocab: int = 9463) -> int:
    """Parameters of a Llama with heads of 64 channels and a tied head."""
    attention = shape.hidden * 64 * (2 * shape.heads + 2 * shape.kv_heads)
    layer = attention + 3 * shape.hidden * shape.ffn + 2 * shape.hidden
    return vocab * shape.hidden + shape.layers * layer + shape.hidden


def test_stories_are_held_out_healed_on_or_read_by_students(tmp_path):
    study = script("law-smollm2")
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"story {number}"}) + "\n" for number in range(37)))
    study.split(tmp_path / "out", [text])
    found = {
        name: [json.loads(line)["text"] for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("held_out", "heal", "train")
    }
    assert found["held_out"] == ["story 0", "story 18", "story 36"]
    assert (len(found["heal"]), len(found["train"])) == (17, 17)
    assert sorted(chain.from_iterable(found.values())) == sorted(f"story {number}" for number in range(37))


@pytest.mark.long
def test_the_page_is_written_from_the_results(runs, tmp_path):
    out = tmp_path / "out"
    judged(runs, out)
    check_page(out)
    written = (out / "README.md").read_text(encoding="utf-8")
    assert "9 claims: 6 confirmed, 3 refuted." in written
    assert re.search(
        r"\nAt equal tokens, .* show a .* over the sizes of teachers; students of one start show a valley\.\n", written
    )
    assert "a valley; the planned teacher is as good as any of the ladder within 0.01 nats." in written
    assert "a slope that falls to the largest teacher; another teacher of the ladder is better" in written
    picture = ElementTree.fromstring((out / "rung.svg").read_text(encoding="utf-8"))
    dots = [one for one in picture.iter() if one.tag.endswith("circle")]
    assert len(dots) == 3 * (4 + 1), "four teachers and a ring in each panel"
    heights = [float(one.get("cy")) for one in dots[:4]]
    assert heights[1] == max(heights), "the planned teacher's students have the fewest nats, at the bottom"


def test_the_committed_page_is_that_of_its_results():
    folder = RESULTS / "law-smollm2"
    if not (folder / "results.json").exists():
        assert not (folder / "README.md").exists(), "figures that stand in for results are not published"
        return
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert found["criterion"] == DIGEST
    page = script("law_smollm2_page")
    assert (folder / "README.md").read_text(encoding="utf-8") == page.page(found)
    assert (folder / "rung.svg").read_text(encoding="utf-8") == page.drawn(found)
