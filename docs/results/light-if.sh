# Tuning on the tokens with a large loss for their entropy, before a reward for strings with three rules, beside tuning on all
# tokens, on as many at random, and one stopped at the same entropy; three seeds, half an hour of one core. Stopped, it goes on.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce light-if --scale small --seed 300 --seeds 3 --workers 1 --device cpu --out runs/light-if
to=docs/results/light-if
mkdir -p "$to"
for file in README.md reproduction.json light-if.png; do cp "runs/light-if/$file" "$to/"; done
python docs/results/index.py
