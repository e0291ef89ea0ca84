# Pruned students of SmolLM2-135M-Instruct at several peak learning rates; three seeds. Some hour and a half of one core; each
# command continues where it was stopped. The teacher's logits are those of smollm2.sh, captured by the same command: where they
# are there nothing is captured.
set -eu
export OMP_NUM_THREADS=1
text=$LIMBECK_TEST_DATA/text/tinystories stories=runs/smollm2/text logits=runs/smollm2/logits out=runs/rates
[ -d $stories ] || python docs/results/smollm2.py split $stories "$text/train.jsonl" "$text/train_v2.jsonl"
limbeck capture --teacher builtin:smollm2-135m --vocab auto --data $stories/train.jsonl --eval-data $stories/held_out.jsonl \
  --seq-len 512 --threads 1 --out $logits
same="--teacher $logits --tokens 200k --seed 200 --seeds 3 --baselines none --dtype bfloat16 --threads 1"
for lr in 2e-3 1e-3 5e-4 4e-3; do
  limbeck distil $same --shape layers=16,hidden=320,heads=4,kv_heads=2,ffn=832 --lr $lr --out $out/20m-$lr
done
for lr in 1e-3 5e-4 2e-3; do
  limbeck distil $same --params 40M --lr $lr --out $out/40m-$lr
done
python docs/results/rates.py $out docs/results/rates
