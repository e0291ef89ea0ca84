# Rationales that a small model samples, rewarded by how likely they make the known answer, beside each half of that gradient, a
# reward for right answers, STaR and tuning on answers alone; three seeds, half an hour of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce latro --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/latro
to=docs/results/latro
mkdir -p "$to"
for file in README.md reproduction.json latro.png; do cp "runs/latro/$file" "$to/"; done
python docs/results/index.py
