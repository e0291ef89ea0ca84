# Students of several depths from layers that are distilled once, beside random weights and beside layers of the teacher at equal
# tokens and at equal FLOPs; three seeds, forty minutes of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce learngene --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/learngene
to=docs/results/learngene
mkdir -p "$to"
for file in README.md reproduction.json learngene.png; do cp "runs/learngene/$file" "$to/"; done
python docs/results/index.py
