#!/bin/sh
# All stages of training from random weights, at a tiny size: some minutes on two cores.
# Fails unless each stage betters the one before on development data.
#   runs/smoke.sh [FOLDER]      PYTHON names the interpreter of the environment
set -eu

here=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-$here/../.venv/bin/python}
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
train() {
    echo "== $*"
    "$PYTHON" -c 'from opengte.cli import main; main(prog_name="gte")' train "$@"
}

"$PYTHON" "$here/smoke_data.py" "$folder/data"
cd "$folder"
export OMP_NUM_THREADS=1 # at this size threads wait for each other more than they work
began=$(date +%s)

train pretrain --model new --from-nothing tiny --vocabulary 4096 --positions 256 \
    --data data/texts.jsonl --output mlm --tokens 600k --batch 64 --learning-rate 4
train contrastive --model mlm/model --data data/pairs.jsonl --dev data/dev.jsonl \
    --output contrastive --tokens 500k --batch 128 --learning-rate 2e-3 --reversed-ntk 2
train finetune --model contrastive/model --data data/pairs.jsonl --dev data/dev.jsonl \
    --output finetuned --tokens 1M --batch 64 --learning-rate 1e-3 --mine 3 --matryoshka 32 \
    --document-tokens 128
train extend --model finetuned/model --data data/long.jsonl --dev data/long-dev.jsonl \
    --output long --positions 1024 --tokens 800k --batch 32 --learning-rate 1e-3 --no-check
train instruct --model qwen2 --from-nothing tiny --vocabulary 4096 --data data/pairs.jsonl \
    --dev data/dev.jsonl --output instructed --tokens 500k --batch 64 --learning-rate 2e-3 \
    --lora 0 --instruction "Find the command that does this." --document-tokens 128
# most rows get mined negatives, and hard ones: it takes several epochs to tell them from answers
train rerank --model finetuned/model --data data/pairs.jsonl --held-out 0.15 \
    --output reranker --tokens 3M --batch 16 --learning-rate 1e-3 --mine 4 --max-length 128
train distill --model finetuned/model --layers 1 --data data/pairs.jsonl --dev data/dev.jsonl \
    --output distilled --tokens 1500k --batch 64 --learning-rate 1e-3 --mine 3 \
    --document-tokens 128
train merge contrastive/model finetuned/model --slerp 0.7 --output merged

"$PYTHON" "$here/smoke_check.py" .
echo "all stages: $(($(date +%s) - began)) s, in $folder"
