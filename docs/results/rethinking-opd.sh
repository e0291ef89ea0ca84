# When a student gains from its teacher's judgement of its own answers: overlap before against other predictors, teachers that write
# alike or otherwise and know the same or more, and text that the teacher generates, at equal tokens and FLOPs; three seeds, an
# hour and a half of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce rethinking-opd --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/rethinking-opd
to=docs/results/rethinking-opd
mkdir -p "$to"
for file in README.md reproduction.json rethinking-opd.png; do cp "runs/rethinking-opd/$file" "$to/"; done
python docs/results/index.py
