# Nine pairs of importance scores against chance, students of one shape from each of three teachers, at equal tokens, three seeds.
# An hour and a quarter of one core. Stopped, it goes on where it was. LIMBECK_TEST_DATA names a folder with
# models/stories-llama-260k and text/tinystories; SmolLM2 comes out of a package, once.
set -eu
export OMP_NUM_THREADS=1
python docs/results/scores.py run runs/scores "$LIMBECK_TEST_DATA" docs/results/scores
python docs/results/index.py
