# The teacher that comes with limbeck: trained from scratch on the training modules of the standard library, stored in
# half precision. About an hour and a half of one core.
set -eu
limbeck pretrain --data python:stdlib --shape layers=5,hidden=128,heads=8,kv_heads=4,ffn=256 --vocab 2048 \
  --tokens 20.1M --length 256 --batch-tokens 4096 --lr 0.005 --schedule wsd --seed 0 --threads 1 --device cpu \
  --dtype float32 --out runs/stdlib
python docs/results/builtin-stdlib.py runs/stdlib src/limbeck/builtin/stdlib docs/results/builtin-stdlib
