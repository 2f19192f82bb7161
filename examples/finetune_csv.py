"""Fine-tune an encoder on a CSV file with the columns `question` and `answer`.

    pip install 'opengte[train]'
    python finetune_csv.py faq.csv tuned/

`gte train finetune` does this from the command line, with held-out rows and mined hard negatives.
"""

import argparse
from pathlib import Path

from opengte import Encoder, checkpoint
from opengte.data import ColumnMapping, Dataset, SourceSpec, SourceTokenizer, prepare
from opengte.train.stages.finetune import FineTuningRecipe, finetune
from opengte.train.stages.runner import StageJob


def finetune_csv(csv: Path, output: Path, *, model: str = "minilm", epochs: int = 1) -> Path:
    """Train on the pairs of a CSV file; returns the folder of the trained model."""
    start = checkpoint.read_checkpoint(model)

    # tokenise the texts into memory-mapped shards
    pairs = SourceSpec("faq", (csv,), ColumnMapping(query="question", positive=("answer",)))
    tokenizer = SourceTokenizer(
        start.tokenizer, start.prompts, query_tokens=64, document_tokens=256
    )
    prepare([pairs], output / "data", tokenizer)
    data = Dataset.open(output / "data", start.tokenizer.fingerprint)

    # the other rows of a batch are the negatives; a text that answers two questions is not one
    result = finetune(start, data, StageJob(output=output), FineTuningRecipe(epochs=epochs))
    assert result.model is not None
    return result.model


def main() -> None:
    """Train, then embed with the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    folder = finetune_csv(options.csv, options.output, model=options.model, epochs=options.epochs)
    print(f"{folder}: {Encoder.load(folder).encode_query(['a question']).shape}")


if __name__ == "__main__":
    main()
