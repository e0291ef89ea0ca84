# A Transformer and a state space model that evaluate nested lists, from scratch and after pretraining on those lists, three seeds.
# Twenty minutes of one core; stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce self-pretraining --scale small --seed 300 --seeds 3 --device cpu --out runs/self-pretraining
to=docs/results/self-pretraining
mkdir -p "$to"
for file in README.md reproduction.json steps.png; do cp "runs/self-pretraining/$file" "$to/"; done
