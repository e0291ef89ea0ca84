# The formula of over-training beside simulations, and read-outs of hidden states stopped by it. Three seeds, a few minutes of one
# core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce generalization --scale small --seed 700 --seeds 3 --workers 2 --device cpu --out runs/generalization
to=docs/results/generalization
mkdir -p "$to"
for file in README.md reproduction.json generalization.png; do cp "runs/generalization/$file" "$to/"; done
python docs/results/index.py
