"""An objective as text, parsed once."""

import pytest

from limbeck.errors import BadObjective
from limbeck.objectives import TAID
from limbeck.objectives.spec import ObjectiveSpec, any_needs_teacher


def test_each_training_has_an_objective_of_its_own():
    spec = ObjectiveSpec.of("0.5*ce + 0.5*TAID(start=0.2)")
    first, second = spec.make(), spec.make()
    first.begin(10)
    before = {name: value.clone() for name, value in second.state_dict().items()}
    for loss in (3.0, 2.0, 1.0):
        first.advance(loss)
    assert any(not value.equal(before[name]) for name, value in first.state_dict().items())
    assert all(value.equal(before[name]) for name, value in second.state_dict().items())
    assert all(value.equal(before[name]) for name, value in spec.objective.state_dict().items())


def test_what_is_read_of_it():
    spec = ObjectiveSpec.of("0.5*ce + Ramp(of=TAID(start=0.2))")
    assert spec.canonical == repr(spec.make())
    assert ObjectiveSpec.of(spec.canonical).canonical == spec.canonical
    assert [type(term).__name__ for term in spec.terms] == ["CrossEntropy", "Ramp"]
    assert sum(isinstance(part, TAID) for part in spec.parts) == 1
    assert spec.needs_teacher
    assert not ObjectiveSpec.of("CrossEntropy").needs_teacher
    assert not any_needs_teacher(map(ObjectiveSpec.of, ("ce", "CrossEntropy")))
    assert ObjectiveSpec.of("ce") != ObjectiveSpec.of("CrossEntropy")  # its text names folders, and is kept
    with pytest.raises(BadObjective):
        ObjectiveSpec.of("Nothing")
