# Few chains with derivations, learned plainly, with dropout, for half the epochs, and with a part of what is read masked, each at its
# best validation; three seeds, about half an hour of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce masked-thought --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/masked-thought
to=docs/results/masked-thought
mkdir -p "$to"
for file in README.md reproduction.json masked-thought.png; do cp "runs/masked-thought/$file" "$to/"; done
python docs/results/index.py
