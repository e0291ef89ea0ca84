# How far networks move from starts of low and full rank, and whether early change tells good starts of a student; three seeds, forty
# minutes of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce rich-lazy --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/rich-lazy
to=docs/results/rich-lazy
mkdir -p "$to"
for file in README.md reproduction.json rich-lazy.png; do cp "runs/rich-lazy/$file" "$to/"; done
python docs/results/index.py
