# Six sizes of model trained on three-digit sums, 20 tokens a parameter; the largest one's score predicted from the others.
# A quarter of an hour of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce pass-until --scale small --seeds 2 --device cpu --out runs/pass-until
