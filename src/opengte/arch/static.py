"""Static models: a vector for each token, and their mean (Model2Vec, StaticEmbedding).

`config.json` of Model2Vec has no sizes, and StaticEmbedding has no such file: the caller adds
`vocab_size` and `hidden_size` from the tensors.
"""

from opengte.arch import config_values
from opengte.arch.config_values import Config
from opengte.arch.plan import UNLIMITED, Embedding, Plan
from opengte.arch.tensors import FoldedRows, TensorNaming

# how the vectors were made, which changes nothing any more
_ABOUT = (
    "apply_pca apply_zipf embedding_dtype hidden_dim normalize pca_dims seq_length sif_coefficient "
    "token_remove_pattern tokenizer_name vocabulary_quantization"
).split()

STATIC = TensorNaming(
    body={
        "embedding.word": (
            FoldedRows("embeddings", "mapping", "weights"),
            FoldedRows("embeddings", "", "weights"),
            FoldedRows("embeddings", "mapping", ""),
            FoldedRows("embeddings", "", ""),
            "embedding.weight",
        )
    },
    heads={},
    prefixes=("",),
    unused=(),
)


def static_plan(config: Config) -> Plan:
    """Describe a table of word vectors whose mean is the text's vector."""
    for key in _ABOUT:
        config.get(key)
    width = config_values.whole_number(config, "hidden_size")
    limited = config.get("max_length") is not None
    return Plan(
        architecture="static",
        embedding=Embedding(config_values.whole_number(config, "vocab_size"), width, 0, 0, 0, None),
        layers=(),
        final_norm=None,
        max_positions=config_values.whole_number(config, "max_length") if limited else UNLIMITED,
        pooling="mean",
    )
