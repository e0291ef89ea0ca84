# How often the 95 % intervals of the fitted laws hold the truth, over 200 made-up pilots. Half an hour of one core.
set -eu
OMP_NUM_THREADS=1 python docs/results/law-coverage.py docs/results/law-coverage/coverage.json 200
