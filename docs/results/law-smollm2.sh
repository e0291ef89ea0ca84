# One rung of the capacity-gap ladder with a real teacher at its top: students of 10M parameters of teachers of 16M to 111M, three
# seeds. Some four hours of one core; each command continues where it was stopped. LIMBECK_TEST_DATA names a folder with
# text/tinystories; the teacher comes out of a package, once.
set -eu
export OMP_NUM_THREADS=1
text=$LIMBECK_TEST_DATA/text/tinystories out=runs/law-smollm2 study="python docs/results/law-smollm2.py"
few="--dtype bfloat16 --threads 1" rows="--seq-len 512 --frame <|endoftext|>"
both="0.5*CrossEntropy + 0.5*ForwardKL"
$study split $out/text "$text/train.jsonl" "$text/train_v2.jsonl"

# SmolLM2 with the tokens of all these stories, whole; and the one start of all students.
shape=$($study shape 111m)
[ -e $out/whole/config.json ] || limbeck shrink --teacher builtin:smollm2-135m --vocab auto \
  --data $out/text/heal.jsonl,$out/text/train.jsonl,$out/text/held_out.jsonl $rows $shape --out $out/whole
small=$($study shape student)
[ -e $out/start/config.json ] || limbeck shrink --teacher $out/whole --data $out/text/heal.jsonl $rows $small --out $out/start

# Teachers: pruned, and healed on the first half of the stories. The whole one is given, so that it is not pruned.
limbeck capture --teacher $out/whole --data $out/text/heal.jsonl --eval-data $out/text/held_out.jsonl $rows $few --out $out/heal
for teacher in 16m 25m 45m; do
  shape=$($study shape $teacher)
  limbeck distil --teacher $out/heal $shape --objective "$both" --tokens 400k --batch-tokens 1536 --lr 2e-3 \
    --seed 290 --baselines none $few --out $out/teachers/$teacher
done
limbeck distil --teacher $out/heal --student $out/whole --objective "$both" --tokens 400k --batch-tokens 1536 --lr 3e-4 \
  --seed 290 --baselines none $few --out $out/teachers/111m

# Each teacher's logits of the second half, once.
for teacher in 16m 25m 45m 111m; do
  limbeck capture --teacher $out/teachers/$teacher/student --data $out/text/train.jsonl --eval-data $out/text/held_out.jsonl \
    $rows $few --out $out/logits/$teacher
done
limbeck capture --teacher $out/whole --data $out/text/train.jsonl --eval-data $out/text/held_out.jsonl $rows $few --out $out/logits/whole

kd() { limbeck distil --objective "$both" --batch-tokens 1536 --baselines none $few "$@"; }
for teacher in 16m 111m; do
  for lr in 1e-3 2e-3 4e-3; do
    kd --teacher $out/logits/$teacher --student $out/start --tokens 200k --seed 290 --lr $lr --out $out/rates/$teacher-$lr
  done
done
seeds="--seed 300 --seeds 3 $($study rate $out)"
for teacher in 16m 25m 45m 111m whole; do
  kd --teacher $out/logits/$teacher --student $out/start --tokens 637k $seeds --out $out/same/$teacher
done
for teacher in 16m 25m 45m 111m; do
  kd --teacher $out/logits/$teacher $small --tokens 637k $seeds --out $out/pruned/$teacher
done
for teacher in 25m 45m 111m; do
  tokens=$($study tokens $out $teacher)
  kd --teacher $out/logits/$teacher --student $out/start $tokens $seeds --out $out/flops/$teacher
done
ce() { limbeck distil --objective CrossEntropy --batch-tokens 1536 --baselines none $few "$@"; }
ce --teacher $out/logits/16m --student $out/start --tokens 637k $seeds --out $out/text-alone/tokens
tokens=$($study tokens $out text)
ce --teacher $out/logits/16m --student $out/start $tokens $seeds --out $out/text-alone/flops
$study judge $out docs/results/law-smollm2
python docs/results/index.py
