"""Objectives from text: what is understood, what is refused and in which words, and that text is never run as code."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import BadObjective
from limbeck.objectives import CTKD, DKD, TAID, CrossEntropy, ForwardKL, JensenShannon, Ramp, Sum, parse
from limbeck.objectives.parse import OURS, code_of

USER = """
from limbeck.objectives import Objective

class Mine(Objective):
    needs_teacher = False
    def __init__(self, gain=1.0, mode="a", sure=False):
        super().__init__()
        self.gain, self.mode, self.sure = gain, mode, sure
    def forward(self, logits, signal, chunk):
        return self.gain * logits.logsumexp(-1)

class Picky(Objective):
    def __init__(self, size):
        super().__init__()
        if size < 3:
            raise ValueError("size must be 3 or more")
    def forward(self, logits, signal, chunk):
        return logits.sum(-1)

number = 3
"""


@pytest.fixture
def user_file(tmp_path, monkeypatch):
    path = tmp_path / "users_loss_of_this_test.py"
    path.write_text(USER)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_name_alone_is_the_objective_itself():
    assert isinstance(parse("TAID"), TAID)
    assert isinstance(parse(" taid ( ) "), TAID)
    assert isinstance(parse("ce"), CrossEntropy)
    assert repr(parse("jsd(beta=0.2)")) == "JensenShannon(beta=0.2, temperature=1.0)"


def test_a_sum_with_weights_and_parameters():
    objective = parse("0.5*CrossEntropy+ 1.5e0 * TAID(start=.2, alpha='auto', schedule=linear) + fkl")
    assert isinstance(objective, Sum)
    (one, ce), (two, taid), (three, fkl) = objective
    assert (one, two, three) == (0.5, 1.5, 1.0)
    assert isinstance(ce, CrossEntropy)
    assert isinstance(fkl, ForwardKL)
    assert (taid.start, taid.alpha, taid.schedule) == (0.2, "auto", "linear")


def test_a_parameter_may_be_an_objective_with_its_brackets(user_file):
    objective = parse(f"0.5*Ramp(of={user_file}:Mine(gain=2), start=0.1) + 0.5*Ramp(of=rkl())")
    assert repr(objective).startswith(f"0.5 * Ramp(of={user_file}:Mine(gain=2, mode='a', sure=False), start=0.1")
    assert repr(parse(repr(objective))) == repr(objective)
    assert list(code_of(objective)) == ["Mine"]
    with pytest.raises(BadObjective, match="one objective, as in Ramp"):
        parse("Ramp(of=ForwardKL)")
    with pytest.raises(BadObjective, match="Ramp: start must be a number"):
        parse("Ramp(start=ForwardKL())")


@given(
    st.lists(
        st.tuples(
            st.floats(1e-3, 1e3),
            st.sampled_from(
                [
                    CrossEntropy(),
                    ForwardKL(temperature=2.5),
                    JensenShannon(beta=1e-7),
                    TAID(start=0.123456789),
                    TAID(alpha=1e-5, schedule="exp"),
                    DKD(alpha=0),
                    CTKD(start=2.0),
                    Ramp(of=TAID(start=0.1), end=0.9),
                ]
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_an_objective_prints_reads_back(terms):
    objective = Sum(terms)
    assert repr(parse(repr(objective))) == repr(objective)


@pytest.mark.parametrize("name", OURS)
def test_every_objective_is_known_by_its_name_and_prints_itself(name):
    objective = parse(name)
    assert type(objective).__name__ == name
    assert repr(parse(repr(objective))) == repr(objective)


def test_a_users_class_from_a_file_or_a_module(user_file):
    objective = parse(f"{user_file}:Mine(gain=2, mode=fast, sure=true)")
    assert (objective.gain, objective.mode, objective.sure) == (2, "fast", True)
    again = parse(repr(objective))
    assert repr(again) == repr(objective)
    assert repr(parse("users_loss_of_this_test.py:Mine")).startswith("users_loss_of_this_test.py:Mine(gain=1.0")
    module = parse("0.5*ce + 0.5*users_loss_of_this_test:Mine(mode='b c')")
    assert repr(module).endswith("0.5 * users_loss_of_this_test:Mine(gain=1.0, mode='b c', sure=False)")
    assert not module.needs_teacher


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the name of an objective, got the end of the text"),
        ("0.5*CE + FKLx", "there is no FKLx; did you mean ForwardKL"),
        (
            "zzz",
            r"there is no zzz; there are AdaptiveKL, ALM, APODown, APOZero, CrossEntropy, .*, ULD; your own is FILE.py:CLASS, or",
        ),
        ("TAID(strt=0.2)", "TAID has no parameter strt; did you mean start"),
        ("CrossEntropy(temperature=2)", "CrossEntropy has no parameter temperature; it takes no parameters"),
        ("TAID(start=2)", "TAID: start must be a number with 0 <= start <= 1, got 2"),
        ("TAID(start=-0.5)", "got -0.5"),
        (
            "TAID(0.2)",
            r"expected a parameter of TAID by name, as in TAID\(temperature=2.0\), got '0.2' at column 6",
        ),
        ("TAID(start=0.2, start=0.3)", "TAID is given start twice"),
        ("TAID(start=0.2", r"expected ',' or '\)', got the end of the text"),
        ("TAID(start=)", r"expected a number, a word or a quoted text for start, got '\)' at column 12"),
        ("CE +", "expected the name of an objective, got the end of the text"),
        ("CE CE", r"expected '\+' and another term, or the end, got 'CE' at column 4"),
        ("0.5 CE", r"expected '\*' and an objective after the weight 0.5, got 'CE' at column 5"),
        ("-0.5*CE", "a weight must be a number > 0, got -0.5"),
        ("0*CE", "a weight must be a number > 0, got 0"),
        ("1e999*CE", "a weight must be a number > 0, got 1e999"),
        ("CE $", r"unexpected '\$' at column 4"),
        ("nothing.py:Mine", "there is no file nothing.py"),
        ("no_such_module_here:Mine", "there is no module no_such_module_here"),
        ("os:path", "os:path is not an objective; make it a class that inherits from limbeck.objectives.Objective"),
    ],
)
def test_a_syntax_error_is_named_with_its_place(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadObjective, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("users_loss_of_this_test.py:Mina", "has no Mina; its objectives are Mine, Picky"),
        ("users_loss_of_this_test.py:number", "is not an objective"),
        ("users_loss_of_this_test.py:Objective", "is not an objective"),
        ("users_loss_of_this_test.py:Mine(gian=1)", "Mine has no parameter gian; did you mean gain"),
        (
            "users_loss_of_this_test.py:Picky(size=2)",
            r"Picky cannot be made with \{'size': 2\}: size must be 3 or more",
        ),
        (
            "users_loss_of_this_test.py:Picky",
            "Picky cannot be made with {}: .*missing 1 required positional argument: 'size'",
        ),
    ],
)
def test_a_fault_of_a_users_class_is_named(text, message, user_file):
    with pytest.raises(BadObjective, match=message):
        parse(text)


def test_a_users_file_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "broken_module_of_this_test.py").write_text("1 / 0\n")
    with pytest.raises(BadObjective, match=r"importing broken\.py failed with ModuleNotFoundError: No module named"):
        parse("broken.py:Mine")
    with pytest.raises(BadObjective, match="importing broken_module_of_this_test failed with ZeroDivisionError"):
        parse("broken_module_of_this_test:Mine")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch made')",
        "TAID(start=open('made','w'))",
        "(lambda: 1)()",
        "TAID(start=1+1)",
        "a.b",
    ],
)
def test_text_is_never_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadObjective):
        parse(text)
    assert not list(tmp_path.iterdir())


@given(st.text(alphabet="abCE()*+=,.:'\"-0159 \n\tTAIDkl", max_size=30))
def test_any_text_is_an_objective_or_a_bad_objective(text):
    with contextlib.suppress(BadObjective):
        parse(text)
