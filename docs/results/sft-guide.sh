# Tunings of one base by batch, rate, schedule and phases, and what their first tenth tells of their end; three seeds, an hour and a
# quarter of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce sft-guide --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/sft-guide
to=docs/results/sft-guide
mkdir -p "$to"
for file in README.md reproduction.json sft-guide.png; do cp "runs/sft-guide/$file" "$to/"; done
python docs/results/index.py
