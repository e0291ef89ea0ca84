# SmolLM2-135M-Instruct made small for children's stories, and run in llama.cpp. `make smollm2` installs what it needs and runs it.
# Stopped and started again it goes on. usage: run.sh FOLDER; TEACHER, STORIES, STUDENT and TOKENS name others than these.
set -eu
here=$(dirname "$0") out=$1
[ -e "$out/logits/certificate.json" ] ||
  limbeck capture --teacher "${TEACHER:-builtin:smollm2-135m}" --vocab auto --data "${STORIES:-$here/stories.jsonl}" --seq-len 512 \
    --out "$out/logits"
limbeck distil --teacher "$out/logits" --params "${STUDENT:-20M}" --tokens "${TOKENS:-500k}" --batch-tokens 2k --lr 2e-3 \
  --objective "0.5*CrossEntropy + 0.5*ForwardKL" --baselines cut,cut+ce --out "$out/student"
[ -e "$out/gguf/export.json" ] || limbeck export "$out/student/student" --to gguf:q8_0 --out "$out/gguf"
python "$here/tell.py" "$out"/gguf/*.gguf "Once upon a time, there was a little"
python -c 'import json, sys; print(json.load(open(sys.argv[1]))["text"])' "$out/student/verdict.json"
echo "report: $out/student/report.html"
