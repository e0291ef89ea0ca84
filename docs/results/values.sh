# Values read back out of real text by bytes of state: six kinds of models at equal tokens and at equal FLOPs, three seeds, and the
# students of conversion.sh beside their teacher and a larger model. Three to four hours of one core, half of that with two; stopped,
# it goes on where it was. LIMBECK_TEST_DATA names a folder with text/wikipedia and models/stories-llama-260k.
set -eu
export OMP_NUM_THREADS=1
articles=$LIMBECK_TEST_DATA/text/wikipedia/wiki_demo.txt work=runs/values study="python docs/results/values.py"
students=based=runs/conversion,gdn=runs/conversion-gdn,SmolLM2-135M-Instruct=builtin:smollm2-135m
$study converted $work "$articles" "teacher=$LIMBECK_TEST_DATA/models/stories-llama-260k,$students"
$study run $work "$articles" docs/results/values 2
python docs/results/index.py
