# A toy programming language with few examples: tuning, translation and examples in context at three sizes; three seeds, an hour
# and a quarter of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce low-resource-code --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/low-resource-code
to=docs/results/low-resource-code
mkdir -p "$to"
for file in README.md reproduction.json low-resource-code.png; do cp "runs/low-resource-code/$file" "$to/"; done
python docs/results/index.py
