#!/bin/sh
# The demo: fetch the default model, look at it, compare, embed and search. Run it by `make demo`.
set -eu
cd "$(dirname "$0")"

say() { printf '\n\033[1m%s\033[0m\n' "$1"; }
[ -t 1 ] || say() { printf '\n%s\n' "$1"; }

say 'gte pull                                  # once; later it is found in the cache'
gte pull

say 'gte info'
gte info

say 'gte similarity "a cat sleeps" ...'
gte similarity 'a cat sleeps' 'a kitten takes a nap' 'a dog barks' 'the stock market fell'

say 'gte embed "What is a text embedding?"     # the first six of 384 numbers'
gte embed 'What is a text embedding?' | sed -e 's/\("dense": \[\)\(\([^,]*, \)\{6\}\).*/\1\2...]}/'

for query in \
    'why is 0.1 + 0.2 not equal to 0.3?' \
    'my function remembers its list from the last call'
do
    say "gte search \"$query\" documents --top 2"
    gte search "$query" documents --top 2
done

kb=$(mktemp -d)/kb
trap 'rm -rf "$(dirname "$kb")"' EXIT
say 'gte index documents --to kb              # once; later runs embed only what changed'
gte index documents --to "$kb"

query='call the same function again without computing it twice'
say "gte search \"$query\" --in kb --top 2    # meaning and words together"
gte search "$query" --in "$kb" --top 2

say "gte ui kb                                # the same on a page, with a map: try it on your own files"
