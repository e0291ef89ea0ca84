# A student of SmolLM2-135M-Instruct trained with the weights that its 4-bit or 8-bit file will hold, against quantising it after
# the same training; three seeds. About an hour of one core; each command continues where it was stopped. The teacher's logits
# are those of smollm2.sh, captured by the same command: where they are there nothing is captured. The last commands need
# pip install 'limbeck[gguf,llamacpp]'.
set -eu
export OMP_NUM_THREADS=1
text=$LIMBECK_TEST_DATA/text/tinystories stories=runs/smollm2/text logits=runs/smollm2/logits out=runs/quantised
[ -d $stories ] || python docs/results/smollm2.py split $stories "$text/train.jsonl" "$text/train_v2.jsonl"
limbeck capture --teacher builtin:smollm2-135m --vocab auto --data $stories/train.jsonl --eval-data $stories/held_out.jsonl \
  --seq-len 512 --threads 1 --out $logits
same="--teacher $logits --shape layers=16,hidden=320,heads=4,kv_heads=2,ffn=832 --tokens 200k --lr 2e-3 --seed 200 --seeds 3 \
  --dtype bfloat16 --threads 1"
limbeck distil $same --qat int4 --baselines ptq --out $out/int4
limbeck distil $same --qat int8 --baselines ptq --out $out/int8
limbeck distil $same --baselines none --out $out/plain
limbeck export $out/int4/student --to gguf:q4_0 --threads 1 --out $out/int4-gguf
limbeck export $out/int8/student --to gguf:q8_0 --threads 1 --out $out/int8-gguf
python docs/results/quantised.py $out docs/results/quantised
for run in int4 int8; do
  mkdir -p docs/results/quantised/$run
  for file in readings.jsonl verdict.json samples.json; do cp "$out/$run/$file" docs/results/quantised/$run/; done
  cp $out/$run-gguf/export.json docs/results/quantised/$run/
done
python docs/results/quantised_page.py
python docs/results/index.py
