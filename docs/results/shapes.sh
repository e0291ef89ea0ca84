# Four rules for the shape of a pruned student, at half of the parameters of three teachers, at equal tokens and at equal FLOPs, three
# seeds. An hour of one core. Stopped, it goes on where it was. LIMBECK_TEST_DATA names a folder with models and text/tinystories.
set -eu
export OMP_NUM_THREADS=1
python docs/results/shapes.py run runs/shapes "$LIMBECK_TEST_DATA" docs/results/shapes
python docs/results/index.py
