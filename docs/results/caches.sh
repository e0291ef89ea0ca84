# Students of captured answers at 48 bytes a token beside those of the live teacher: a real teacher and the embedded one, three
# objectives, three seeds. An hour and a half of one core; stopped, it goes on where it was.
# LIMBECK_TEST_DATA names a folder with models/stories-llama-260k and text/tinystories.
set -eu
export OMP_NUM_THREADS=1
text=$LIMBECK_TEST_DATA/text/tinystories
python docs/results/caches.py runs/caches-stories "$LIMBECK_TEST_DATA/models/stories-llama-260k" "$text/train.jsonl,$text/train_v2.jsonl" 104k 300k
python docs/results/caches.py runs/caches-stdlib builtin:stdlib python:stdlib 400k 300k
for one in stories stdlib; do cp "runs/caches-$one/results.json" "docs/results/caches/$one.json"; done
