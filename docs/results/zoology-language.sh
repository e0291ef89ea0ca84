# Language models of attention and of convolutions at four sizes, hybrids and linear attention, by recall slices, three seeds; then
# what decides the first two claims, on stories. Six hours of one core. Stopped, it goes on where it was. LIMBECK_TEST_DATA names a
# folder with text/tinystories.
set -eu
export OMP_NUM_THREADS=1
limbeck reproduce zoology-language --scale small --seed 500 --seeds 3 --device cpu --out runs/zoology-language
text=$LIMBECK_TEST_DATA/text/tinystories stories=runs/zoology-language-text
mkdir -p $stories
cp "$text/train.jsonl" "$text/train_v2.jsonl" $stories/
limbeck reproduce zoology-language --scale small --seed 500 --seeds 3 --data "$stories/train.jsonl,$stories/train_v2.jsonl" \
  --device cpu --out runs/zoology-language-stories
for study in zoology-language zoology-language-stories; do
  to=docs/results/$study
  mkdir -p "$to"
  for file in README.md reproduction.json gaps.png; do cp "runs/$study/$file" "$to/"; done
done
python docs/results/index.py
