# An on-policy stage and a chat stage for a student of SmolLM2-135M-Instruct, each beside as much compute of what came before; three
# seeds. Some five hours of one core; each command continues where it was stopped. LIMBECK_TEST_DATA names a folder with
# text/tinystories and tasks/{alpaca,self_instruct,mt_bench,vicuna80,preference}; the teacher comes out of a package, once.
set -eu
export OMP_NUM_THREADS=1
out=runs/smollm2-stages study="python docs/results/smollm2-stages.py" prompts="python docs/results/smollm2-chat.py"
text=$LIMBECK_TEST_DATA/text/tinystories
few="--dtype bfloat16 --threads 1" rows="--seq-len 512 --frame <|endoftext|>"
both="0.5*CrossEntropy + 0.5*ForwardKL"
python docs/results/smollm2.py split $out/text "$text/train.jsonl" "$text/train_v2.jsonl"
$prompts prompts "$LIMBECK_TEST_DATA" $out/chat
limbeck capture --text --teacher builtin:smollm2-135m --data $out/chat/prompts.jsonl --temperature 0.7 --max-new-tokens 256 $few \
  --out $out/answered
$prompts split $out/answered $out/chat

# SmolLM2 with the tokens of both texts, and the logits of each.
[ -e $out/whole/config.json ] || limbeck shrink --teacher builtin:smollm2-135m --vocab auto \
  --data $out/text/train.jsonl,$out/text/held_out.jsonl,$out/chat/train.jsonl,$out/chat/held_out.jsonl $rows $($study whole) \
  --out $out/whole
limbeck capture --teacher $out/whole --data $out/text/train.jsonl --eval-data $out/text/held_out.jsonl $rows $few --out $out/logits
limbeck capture --teacher $out/whole --data $out/chat/train.jsonl --eval-data $out/chat/held_out.jsonl --seq-len 512 $few \
  --out $out/chat-logits

# The start, as smollm2.sh makes its student of 20M.
limbeck distil --teacher $out/logits $(python docs/results/smollm2.py shape 20M both) --objective "$both" --tokens 1274k --lr 2e-3 \
  --seed 400 --baselines none $few --out $out/start

stage() { limbeck distil --baselines none $few "$@"; }
own() {
  limbeck distil --teacher $out/whole --student $out/start/student --data $out/text/train.jsonl \
    --eval-data $out/text/held_out.jsonl $rows --objective ReverseKL --rollouts 0.5 --rollout-tokens 64 $few "$@"
}
more() { stage --teacher $out/logits --objective "$both" "$@"; }
chat() { stage --teacher $out/chat-logits --objective "$both" "$@"; }
for lr in 3e-4 1e-3; do
  own --tokens 21k --seed 390 --lr $lr --baselines none --out $out/rates/on-policy-$lr
  more --student $out/start/student --tokens 64k --seed 390 --lr $lr --out $out/rates/more-$lr
  chat --student $out/start/student --tokens 84k --seed 390 --lr $lr --out $out/rates/chat-$lr
done
own --tokens 64k --seed 410 --seeds 3 $($study rate $out on-policy) --baselines off-policy@flops --out $out/on-policy
more --student $out/start/student $($study tokens $out first) --seed 410 --seeds 3 $($study rate $out more) --out $out/more
for seed in 410 411 412; do
  for first in on-policy more; do
    chat $($study model $out $first $seed) --tokens 250k --seed $seed $($study rate $out chat) --out $out/$first-chat/$seed
  done
  more $($study model $out more $seed) $($study tokens $out second) --seed $seed $($study rate $out more) \
    --out $out/more-more/$seed
done
$study measure $out
$study judge $out docs/results/smollm2-stages
python docs/results/index.py
