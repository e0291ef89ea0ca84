# One rung of the capacity-gap ladder with a real teacher at its top: students of 10M parameters of teachers of 16M to 111M, three
# seeds. Some two hours of two cores, as most of it runs two at a time; each command continues where it was stopped.
# LIMBECK_TEST_DATA names a folder with text/tinystories; the teacher comes out of a package, once.
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

# Two functions at once. It fails where one of them does.
together() {
  "$1" & one=$!
  "$2" & two=$!
  failed=0
  wait $one || failed=1
  wait $two || failed=1
  return $failed
}

# Teachers: pruned, and healed on the first half of the stories. The whole one is given, so that it is not pruned.
# Then each teacher's logits of the second half, once.
limbeck capture --teacher $out/whole --data $out/text/heal.jsonl --eval-data $out/text/held_out.jsonl $rows $few --out $out/heal
logits() {
  limbeck capture --teacher "$1" --data $out/text/train.jsonl --eval-data $out/text/held_out.jsonl $rows $few --out $out/logits/$2
}
pruned_teachers() {
  for teacher in 16m 25m 45m; do
    shape=$($study shape $teacher)
    limbeck distil --teacher $out/heal $shape --objective "$both" --tokens 400k --batch-tokens 1536 --lr 2e-3 \
      --seed 290 --baselines none $few --out $out/teachers/$teacher
    logits $out/teachers/$teacher/student $teacher
  done
}
whole_teacher() {
  limbeck distil --teacher $out/heal --student $out/whole --objective "$both" --tokens 400k --batch-tokens 1536 --lr 3e-4 \
    --seed 290 --baselines none $few --out $out/teachers/111m
  logits $out/teachers/111m/student 111m
  logits $out/whole whole
}
together pruned_teachers whole_teacher

kd() { limbeck distil --objective "$both" --batch-tokens 1536 --baselines none $few "$@"; }
rates() {
  for lr in 1e-3 2e-3 4e-3; do
    kd --teacher $out/logits/$1 --student $out/start --tokens 200k --seed 290 --lr $lr --out $out/rates/$1-$lr
  done
}
rates_of_smallest() { rates 16m; }
rates_of_largest() { rates 111m; }
together rates_of_smallest rates_of_largest

seeds="--seed 300 --seeds 3 $($study rate $out)"
ce() { limbeck distil --objective CrossEntropy --batch-tokens 1536 --baselines none $few "$@"; }
at_equal_tokens() {
  for teacher in 16m 25m 45m 111m whole; do
    kd --teacher $out/logits/$teacher --student $out/start --tokens 637k $seeds --out $out/same/$teacher
  done
  ce --teacher $out/logits/16m --student $out/start --tokens 637k $seeds --out $out/text-alone/tokens
}
others() {
  for teacher in 16m 25m 45m 111m; do
    kd --teacher $out/logits/$teacher $small --tokens 637k $seeds --out $out/pruned/$teacher
  done
  for teacher in 25m 45m 111m; do
    tokens=$($study tokens $out $teacher)
    kd --teacher $out/logits/$teacher --student $out/start $tokens $seeds --out $out/flops/$teacher
  done
  tokens=$($study tokens $out text)
  ce --teacher $out/logits/16m --student $out/start $tokens $seeds --out $out/text-alone/flops
}
together at_equal_tokens others
$study judge $out docs/results/law-smollm2
python docs/results/index.py
