# Six sizes of model trained on three-digit sums, 20 tokens a parameter; the largest one's score predicted from the others.
# A quarter of an hour of one core. Stopped, it goes on where it was.
set -eu
export OMP_NUM_THREADS=1
out=runs/pass-until
mkdir -p "$out"

text() { # file, lines, seed
  [ -f "$1" ] || python -c "import sys, limbeck; limbeck.write_task_text('addition', sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))" "$@"
}

train() { # name, tokens, seed, shape: one pass over as many sums as that takes (13.6 tokens each)
  [ -f "$out/$1/model/config.json" ] && return
  text "$out/sums-$2.jsonl" $(($2 / 13)) 0
  limbeck pretrain --data "$out/sums-$2.jsonl" --eval-data "$out/held-out.jsonl" --shape "$4" --vocab 259 --tokens "$2" \
    --length 128 --batch-tokens 1024 --seed "$3" --threads 1 --device cpu --out "$out/$1"
}

text "$out/held-out.jsonl" 2000 1000000
for seed in 0 1; do
  train 20k-$seed 380000 $seed layers=2,hidden=24,heads=2,kv_heads=1,ffn=64
  train 28k-$seed 564000 $seed layers=2,hidden=28,heads=2,kv_heads=1,ffn=96
  train 40k-$seed 815000 $seed layers=3,hidden=32,heads=2,kv_heads=1,ffn=80
  train 57k-$seed 1134000 $seed layers=3,hidden=40,heads=2,kv_heads=1,ffn=88
  train 80k-$seed 1640000 $seed layers=3,hidden=48,heads=4,kv_heads=2,ffn=112
done
train 160k-0 3290000 0 layers=4,hidden=64,heads=4,kv_heads=2,ffn=128

for model in "$out"/*k-*; do
  limbeck probe "$model/model" --probe pass-until --task addition --successes 4 --max-samples 100000 --seed 0 --threads 1 \
    --device cpu --out "$out/points" >/dev/null
done
limbeck predict --points "$out/points" --task addition --params 164.6k
python docs/results/pass-until/study.py "$out" docs/results/pass-until
