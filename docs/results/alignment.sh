# Students of another tokenizer than their teacher's, by several objectives, beside students that share it: the embedded teacher
# (2048 tokens) with students of 512, and a real one (512 tokens) with students of 1024. Some ten minutes of one core; stopped,
# it goes on where it was. LIMBECK_TEST_DATA names a folder with models/stories-llama-260k and text/tinystories.
set -eu
export OMP_NUM_THREADS=1
text=$LIMBECK_TEST_DATA/text/tinystories
python docs/results/alignment.py runs/alignment-stdlib builtin:stdlib python:stdlib 512 300000
python docs/results/alignment.py runs/alignment-stories "$LIMBECK_TEST_DATA/models/stories-llama-260k" "$text/train.jsonl,$text/train_v2.jsonl" 1024 300000
mkdir -p docs/results/alignment
for one in stories stdlib; do cp "runs/alignment-$one/results.json" "docs/results/alignment/$one.json"; done
