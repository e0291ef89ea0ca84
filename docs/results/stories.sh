# A student at 0.4 of a real teacher's parameters, three seeds, all baselines. Half an hour of one core.
# LIMBECK_TEST_DATA names a folder with models/stories-llama-260k and text/tinystories.
set -eu
text=$LIMBECK_TEST_DATA/text/tinystories
limbeck distil --teacher "$LIMBECK_TEST_DATA/models/stories-llama-260k" --data "$text/train.jsonl,$text/train_v2.jsonl" \
  --params 104k --tokens 1M --seeds 3 --threads 1 --out runs/stories
for file in run.json readings.jsonl verdict.json samples.json; do cp "runs/stories/$file" docs/results/stories/; done
