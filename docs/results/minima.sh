# A student planned by the law of capacity gap, pruned, distilled and tuned, beside seven other ways to the same size, three seeds.
# Two cores. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce minima --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/minima
to=docs/results/minima
mkdir -p "$to"
for file in README.md reproduction.json frontier.png; do cp "runs/minima/$file" "$to/"; done
