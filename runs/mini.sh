#!/bin/sh
# Fine-tune all-MiniLM-L6-v2 with mined negatives, and compare before and after: up to two hours on
# two cores, and it goes on where it was stopped.
#   runs/mini.sh SHARED_DATA FOLDER      PYTHON names the interpreter of the environment
set -eu

here=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-$here/../.venv/bin/python}
data=$(cd "${1:?the folder of shared data, with mteb/ and train/}" && pwd)
folder=${2:?a folder for the results}
gte() {
    echo "== gte $*"
    "$PYTHON" -c 'from opengte.cli import main; main(prog_name="gte")' "$@"
}

mkdir -p "$folder"
cd "$folder"
test -d data/test/medquad || "$PYTHON" "$here/mini_data.py" "$data" data

# hard negatives, within each source; then shards without any text of the benchmarks
for file in data/train/*.jsonl; do
    name=$(basename "$file" .jsonl)
    test -f "data/mined-$name.jsonl" ||
        gte data mine "$file" --output "data/mined-$name.jsonl" -m minilm -n 4
done
test -f data/shards/manifest.json || gte data prepare \
    debian=data/mined-debian.jsonl python-docs=data/mined-python-docs.jsonl \
    medquad=data/mined-medquad.jsonl python-library=data/mined-python-library.jsonl \
    papers=data/mined-papers.jsonl tldr=data/mined-tldr.jsonl wordnet=data/mined-wordnet.jsonl \
    --output data/shards -m minilm --query-tokens 64 --document-tokens 160 \
    --exclude "$data/mteb/SciFact" --exclude "$data/mteb/STSBenchmark" \
    --exclude "$data/mteb/Banking77"

if test -f tuned/command.json; then
    gte train resume tuned
else
    gte train finetune --model minilm --data data/shards --output tuned --held-out 0 \
        --tokens "${TOKENS:-12M}" --batch 128 --learning-rate 2e-5 --save-every 100
fi
# between the two models: what was learnt, with less of what was forgotten
test -d merged || gte train merge minilm tuned/model --slerp 0.6 --output merged

for model in minilm tuned/model merged; do
    gte eval run "$model" --data "$data/mteb" \
        --tasks SciFact,STSBenchmark,Banking77Classification \
        --output "eval/$(dirname "$model" | tr -d .)$(basename "$model")"
done
"$PYTHON" "$here/mini_table.py" "$data/mteb" data/test minilm tuned/model merged | tee table.md
