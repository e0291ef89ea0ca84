# Which mixers recall: eleven pairs of layers, three seeds, from scratch, with controls and a map of widths and lengths.
# Two cores. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce zoology --scale small --seed 100 --device cpu --out runs/zoology
