# Compressor's space counted whole, and eight shapes of students of equal bytes beside the planned one, three seeds, at equal tokens
# and at equal training FLOPs. An hour of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce compressor --scale small --seed 300 --seeds 3 --device cpu --out runs/compressor
to=docs/results/compressor
mkdir -p "$to"
for file in README.md reproduction.json compressor.png; do cp "runs/compressor/$file" "$to/"; done
python docs/results/index.py
