# The student of minima tuned on instructions, beside its teacher and models of its shape from scratch, by checks and by a judge that
# is admitted first; three seeds. Two hours of a core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce minichat --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/minichat
to=docs/results/minichat
mkdir -p "$to"
for file in README.md reproduction.json checks.png; do cp "runs/minichat/$file" "$to/"; done
python docs/results/index.py
