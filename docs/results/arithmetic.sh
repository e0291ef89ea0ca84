# Three formats of the same sums, three seeds each, beside the completion of the table of sums. Some forty minutes of one core;
# stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce arithmetic --scale small --seed 300 --seeds 3 --device cpu --out runs/arithmetic
to=docs/results/arithmetic
mkdir -p "$to"
for file in README.md reproduction.json samples.png tokens.png; do cp "runs/arithmetic/$file" "$to/"; done
