# Specialisations of small decoders in arithmetic: answers alone or solutions, with shots or without, the teacher's distribution or its
# samples, replay; three seeds, about an hour of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce specialize --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/specialize
to=docs/results/specialize
mkdir -p "$to"
for file in README.md reproduction.json specialize.png; do cp "runs/specialize/$file" "$to/"; done
python docs/results/index.py
