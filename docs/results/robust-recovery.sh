# Factors of a language model fitted robustly or not, on clean text and on text with random tokens, beside pruning; and the paper's
# claim about matrices. Three seeds, fifty minutes of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce robust-recovery --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/robust-recovery
to=docs/results/robust-recovery
mkdir -p "$to"
for file in README.md reproduction.json robust-recovery.png; do cp "runs/robust-recovery/$file" "$to/"; done
python docs/results/index.py
