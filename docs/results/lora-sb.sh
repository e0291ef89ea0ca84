# Adapters in subspaces of the first update, of the gradient, of the weights and at random, beside LoRA and all weights, at equal
# tokens, with learning rates chosen for each; three seeds, half an hour of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce lora-sb --scale small --seed 300 --seeds 3 --workers 2 --device cpu --out runs/lora-sb
to=docs/results/lora-sb
mkdir -p "$to"
for file in README.md reproduction.json lora-sb.png; do cp "runs/lora-sb/$file" "$to/"; done
python docs/results/index.py
