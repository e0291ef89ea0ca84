# Strategies of a teacher with its instructions erased, kept, or at random, on six kinds of toy tasks; three seeds, an hour and a
# quarter of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce orca2 --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/orca2
to=docs/results/orca2
mkdir -p "$to"
for file in README.md reproduction.json orca2.png; do cp "runs/orca2/$file" "$to/"; done
python docs/results/index.py
