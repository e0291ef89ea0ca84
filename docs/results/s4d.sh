# Six ways to start a diagonal state space, on delays of 16 to 900 steps and on the standard library, three seeds each.
# A third of an hour of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce s4d --scale small --seed 300 --seeds 3 --device cpu --out runs/s4d
