# What routing rows to the teachers of two domains leaves of their headroom, and weights of domains that recover it, beside separate
# students, one teacher and the teachers' answers, at equal tokens and FLOPs; three seeds. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce open-mopd --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/open-mopd
to=docs/results/open-mopd
mkdir -p "$to"
for file in README.md reproduction.json open-mopd.png; do cp "runs/open-mopd/$file" "$to/"; done
python docs/results/index.py
