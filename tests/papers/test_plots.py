"""Figures: points stand where their figures are."""

import pytest
from matplotlib.axes import Axes

from limbeck.papers.lab.plots import draw_frontier, draw_gaps
from limbeck.probes.interval import Interval

ONE = Interval(1.0, 0.9, 1.1, 10)


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn, by label: where it stands on the axis."""
    found: dict[str, list[float]] = {}
    draw = Axes.errorbar

    def errorbar(self, x, y, **how):
        found[how["label"]] = list(x)
        return draw(self, x, y, **how)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    return found


def test_points_of_equal_flops_stand_beside_one_another_near_them(drawn, tmp_path):
    flops = dict.fromkeys("abcde", 4e11) | {"f": 9e11}
    draw_frontier(dict.fromkeys(flops, ONE), flops, tmp_path / "plot.png")
    assert drawn["f"] == [9e11]
    places = [drawn[name][0] for name in "abcde"]
    assert len(set(places)) == 5
    assert places == pytest.approx([4e11] * 5, rel=0.05)


def test_points_of_one_size_stand_beside_one_another_near_it(drawn, tmp_path):
    draw_gaps({arm: {"all": {1e6: ONE}, "recall": {1e6: ONE}} for arm in ("H3", "Hyena")}, tmp_path / "plot.png")
    places = [place for (place,) in drawn.values()]
    assert len(set(places)) == 4
    assert places == pytest.approx([1e6] * 4, rel=0.05)
