# TAID beside twelve other objectives, from a ladder of teachers in pretraining and from the largest on instructions, three seeds.
# Two cores. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce taid-gap --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/taid-gap
to=docs/results/taid-gap
mkdir -p "$to"
for file in README.md reproduction.json taid-gap.png; do cp "runs/taid-gap/$file" "$to/"; done
