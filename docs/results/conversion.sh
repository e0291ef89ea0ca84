# Attention of a real teacher replaced in four or three of its five layers, against the same student with attention everywhere, at
# equal tokens, three seeds. An hour of one core; stopped, it goes on where it was.
# LIMBECK_TEST_DATA names a folder with models/stories-llama-260k and text/tinystories.
set -eu
export OMP_NUM_THREADS=1
text=$LIMBECK_TEST_DATA/text/tinystories
convert() { # name, mixers, layers that keep attention
  limbeck distil --teacher "$LIMBECK_TEST_DATA/models/stories-llama-260k" --data "$text/train.jsonl,$text/train_v2.jsonl" \
    --mixers "$2" --keep-attention "$3" --baselines attention --tokens 300k --length 256 --lr 0.001 --seeds 3 --threads 1 \
    --device cpu --out "runs/conversion/$1"
  mkdir -p "docs/results/conversion/$1"
  for file in readings.jsonl verdict.json conversion.json; do
    cp "runs/conversion/$1/$file" "docs/results/conversion/$1/"
  done
}
convert based-1 based:8 1
convert based-2 based:8 2
convert gdn-1 gdn 1
