# Where distilling pays, on a real teacher: a long text read once, a short one read ten times; three seeds. A quarter of an hour of one core.
# LIMBECK_TEST_DATA names a folder with models/stories-llama-260k and text/tinystories.
set -eu
export OMP_NUM_THREADS=1
teacher=$LIMBECK_TEST_DATA/models/stories-llama-260k text=$LIMBECK_TEST_DATA/text/tinystories out=runs/stories
python docs/results/stories.py split $out/text "$text/train.jsonl" "$text/train_v2.jsonl"
seeds="--params 104k --seed 10 --seeds 3 --threads 1"
limbeck distil --teacher "$teacher" --data $out/text/long.jsonl --eval-data $out/text/held_out.jsonl --tokens 500k $seeds \
  --baselines cut,cut+ce,cut+ce@flops --out $out/single-use
limbeck capture --teacher "$teacher" --data $out/text/short.jsonl --eval-data $out/text/held_out.jsonl --threads 1 --out $out/logits
limbeck distil --teacher $out/logits --tokens 500k $seeds --baselines cut,cut+ce,cut+ce@flops --out $out/ten-uses
for tokens in 50k 100k 200k 350k; do
  limbeck distil --teacher $out/logits --tokens $tokens $seeds --objective CrossEntropy --baselines none --out $out/cross-entropy-$tokens
done
python docs/results/stories.py judge $out docs/results/stories
for run in single-use ten-uses; do
  mkdir -p docs/results/stories/$run
  for file in run.json readings.jsonl verdict.json samples.json; do cp "$out/$run/$file" docs/results/stories/$run/; done
done
