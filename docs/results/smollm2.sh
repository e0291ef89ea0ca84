# SmolLM2-135M-Instruct made small for children's stories; three seeds. Some nine hours of one core; each command continues where
# it was stopped. LIMBECK_TEST_DATA names a folder with text/tinystories, tasks/blimp and tasks/lambada; the teacher comes
# out of a package, once. What comes after the trainings needs limbeck[gguf,llamacpp,eval].
set -eu
export OMP_NUM_THREADS=1
text=$LIMBECK_TEST_DATA/text/tinystories out=runs/smollm2
python docs/results/smollm2.py split $out/text "$text/train.jsonl" "$text/train_v2.jsonl"
limbeck capture --teacher builtin:smollm2-135m --vocab auto --data $out/text/train.jsonl --eval-data $out/text/held_out.jsonl \
  --seq-len 512 --threads 1 --out $out/logits
for kind in depth width both; do
  limbeck distil --teacher $out/logits $(python docs/results/smollm2.py shape 20M $kind) --tokens 200k --seed 90 --baselines cut \
    --dtype float32 --threads 1 --out $out/cut-$kind
done
for lr in 1e-3 2e-3; do
  limbeck distil --teacher $out/logits --params 20M --tokens 200k --seed 90 --baselines cut,cut+ce --lr $lr --dtype bfloat16 \
    --threads 1 --out $out/lr-$lr
done
for shares in "0.5 0.5" "0.8 0.2"; do
  set -- $shares
  limbeck distil --teacher $out/logits --params 20M --tokens 200k --seed 90 --baselines cut --lr 2e-3 --dtype bfloat16 \
    --objective "$1*CrossEntropy + $2*ForwardKL" --threads 1 --out $out/mix-$1
done
seeds="--teacher $out/logits --seed 100 --seeds 3 --lr 2e-3 --dtype bfloat16 --threads 1"
small=$(python docs/results/smollm2.py shape 20M $(python docs/results/smollm2.py choose $out))
large=$(python docs/results/smollm2.py shape 40M $(python docs/results/smollm2.py choose $out))
both="0.5*CrossEntropy + 0.5*ForwardKL"
limbeck distil $seeds $small --tokens 1274k --objective "$both" --baselines cut,cut+ce,cut+ce@flops,fresh+kd --out $out/20m
limbeck distil $seeds $small --tokens 1274k --objective "0.5*CrossEntropy + 0.5*TAID" --baselines none --out $out/20m-taid
limbeck distil $seeds $small --tokens 637k --objective CrossEntropy --baselines none --out $out/20m-cross-entropy
limbeck distil $seeds $large --tokens 1274k --objective "$both" --baselines cut,cut+ce,cut+ce@flops --out $out/40m
python docs/results/smollm2.py judge $out docs/results/smollm2
for run in 20m 40m; do
  [ -e $out/$run-files ] || limbeck export $out/$run/student --to gguf:f32,gguf:bf16,gguf:q8_0,gguf:q4_0 --threads 1 --out $out/$run-files
done
python docs/results/smollm2_files.py $out docs/results/smollm2
python docs/results/smollm2_tasks.py $out docs/results/smollm2
for run in 20m 40m; do
  mkdir -p docs/results/smollm2/$run
  for file in readings.jsonl verdict.json samples.json; do cp "$out/$run/$file" docs/results/smollm2/$run/; done
done
python docs/results/smollm2_page.py
python docs/results/index.py
