# How often noise alone is declared a winner: 100 trainings that differ only in their seed. Half an hour of one core; stopped, it
# goes on where it was. LIMBECK_TEST_DATA names a folder with models/stories-llama-260k and text/tinystories.
set -eu
export OMP_NUM_THREADS=1
text=$LIMBECK_TEST_DATA/text/tinystories
python docs/results/verdicts.py runs/verdicts "$LIMBECK_TEST_DATA/models/stories-llama-260k" "$text/train.jsonl,$text/train_v2.jsonl" 64k 200k
for file in results.json rates.svg; do cp "runs/verdicts/$file" docs/results/verdicts/; done
