# Two pilots at scale small, and what they say of the law of capacity gap and of the distillation law. Three hours of one core each;
# stopped, they go on where they were. LIMBECK_TEST_DATA names a folder with text/tinystories.
set -eu
export OMP_NUM_THREADS=1
text=$LIMBECK_TEST_DATA/text/tinystories
limbeck pilot --scale small --law --data "$text/train.jsonl,$text/train_v2.jsonl" --out runs/pilot-stories
limbeck pilot --scale small --law --data python:stdlib --out runs/pilot-stdlib
for name in stories stdlib; do
  to=docs/results/capacity-gap/$name
  mkdir -p "$to"
  for file in points.parquet rates.parquet fits.json ladder.png; do cp "runs/pilot-$name/$file" "$to/"; done
  for recipe in capacity-gap distillation-law; do
    limbeck reproduce "$recipe" --points "runs/pilot-$name" --out "runs/reproduce-$recipe-$name"
    cp "runs/reproduce-$recipe-$name/reproduction.json" "$to/$recipe.json"
  done
done
