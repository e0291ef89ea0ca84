# Values read out of real text by saved models: those of the suite of zoology-language, and converted students beside their teacher.
# A few minutes of one core; a model that was measured is not measured again. MODELS names a folder with a saved model in each
# subfolder; docs/results/conversion.sh has made the runs of conversion.
set -eu
export OMP_NUM_THREADS=1
models=${MODELS:-runs/zoology-language/models} work=runs/values study="python docs/results/values.py"
wikipedia=$LIMBECK_TEST_DATA/text/wikipedia/wiki_demo.txt
$study measure "$models" $work/suite python:stdlib "$wikipedia"
converted=teacher=$LIMBECK_TEST_DATA/models/stories-llama-260k,based=runs/conversion/student,gdn=runs/conversion-gdn/student
$study measure "$converted" $work/converted "$wikipedia"
$study judge $work/suite docs/results/values
$study judge $work/converted docs/results/values/converted
