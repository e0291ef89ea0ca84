# Attention of a real teacher replaced by linear attention in four of its five layers, against the same student with attention
# everywhere, at equal tokens, three seeds. Half an hour of one core; stopped, it goes on where it was.
# LIMBECK_TEST_DATA names a folder with models/stories-llama-260k and text/tinystories.
set -eu
export OMP_NUM_THREADS=1
text=$LIMBECK_TEST_DATA/text/tinystories
limbeck distil --teacher "$LIMBECK_TEST_DATA/models/stories-llama-260k" --data "$text/train.jsonl,$text/train_v2.jsonl" \
  --mixers based:8 --keep-attention 1 --baselines attention --tokens 300k --length 256 --lr 0.001 --seeds 3 --threads 1 \
  --device cpu --out runs/conversion
for file in readings.jsonl verdict.json conversion.json; do cp "runs/conversion/$file" docs/results/conversion/; done
# Gated DeltaNet in three of the layers, two keep attention; some ten minutes more.
limbeck distil --teacher "$LIMBECK_TEST_DATA/models/stories-llama-260k" --data "$text/train.jsonl,$text/train_v2.jsonl" \
  --mixers gdn --keep-attention 2 --baselines none --tokens 300k --length 256 --lr 0.001 --seeds 3 --threads 1 \
  --device cpu --out runs/conversion-gdn
mkdir -p docs/results/conversion/gdn
for file in readings.jsonl verdict.json conversion.json; do cp "runs/conversion-gdn/$file" docs/results/conversion/gdn/; done
