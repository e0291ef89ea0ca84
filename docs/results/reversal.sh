# Facts reversed, by what a thing is made of: a token, two, a vector. A quarter of an hour of one core; stopped, it goes on where
# it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce reversal --scale small --seed 300 --seeds 3 --device cpu --out runs/reversal
to=docs/results/reversal
mkdir -p "$to"
for file in README.md reproduction.json reversal.png; do cp "runs/reversal/$file" "$to/"; done
