"""Every ratio that limbeck aims at, its goal, what was measured, and on what: one table, from the committed results.

    python benchmarks/goals.py

It measures nothing. The scripts beside it do, and write the files of docs/results/performance/ that it reads;
docs/results/goal_rows.py says which. It needs Python alone.
"""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "docs" / "results" / "goal_rows.py"), run_name="__main__")
