# Recall by bytes of state in families of small decoders, three seeds each, then how fast two decoders write by context.
# Less than half an hour of one core, and the timing wants a quiet machine. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce based --scale small --seed 300 --seeds 3 --device cpu --out runs/based
