# Rows of whole documents and conversations beside rows cut out of their stream: what lacks its past, what that does to a teacher's
# held-out loss, and to small students. A quarter of an hour of one core; stopped, it goes on where it was. LIMBECK_TEST_DATA names
# a folder with tasks/{preference,gsm8k,alpaca}, text/{tinystories,c4,python_stdlib}, models/stories-llama-260k and
# tokenizers/gpt_neox_20b.
set -eu
export OMP_NUM_THREADS=1
python docs/results/packing.py runs/packing
mkdir -p docs/results/packing
cp runs/packing/results.json docs/results/packing/results.json
