# The teacher that comes with limbeck: trained from scratch on the training modules of the standard library, stored in
# half precision. About an hour and a half of one core.
set -eu
limbeck pretrain --data python:stdlib --shape layers=5,hidden=128,heads=8,kv_heads=4,ffn=256 --vocab 2048 \
  --tokens 20.1M --length 256 --batch-tokens 4096 --lr 0.005 --schedule wsd --seed 0 --threads 1 --device cpu \
  --dtype float32 --out runs/stdlib
python - <<'PY'
import shutil
from pathlib import Path

import torch
from limbeck.models.load import load, save

made, shipped = Path("runs/stdlib/model"), Path("src/limbeck/builtin/stdlib")
model = load(made)
model.model.half()
save(model, shipped, card=(made / "README.md").read_text())
for name in ("run.json", "readings.jsonl"):
    shutil.copy(f"runs/stdlib/{name}", f"docs/results/builtin-stdlib/{name}")
PY
