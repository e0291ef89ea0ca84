# A wide model grown from two seeds with mixtures, zeros, copies or random numbers between them, beside one seed that trained twice as
# long and is widened, the average of the seeds and the wide model from random weights, at equal FLOPs and equal tokens, three seeds.
# About 40 minutes of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce mixture-growth --scale small --seed 500 --seeds 3 --device cpu --out runs/mixture-growth
to=docs/results/mixture-growth
mkdir -p "$to"
for file in README.md reproduction.json mixture-growth.png; do cp "runs/mixture-growth/$file" "$to/"; done
python docs/results/index.py
