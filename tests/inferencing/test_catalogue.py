import pytest

from shared.inferencing import CatalogueError, parse_catalogue

CHAT = """
[models.chat]
kind = "chat"
tokenizer = "o200k"
context_tokens = 128000
max_output_tokens = 4096
can_synthesise = false

[[models.chat.deployments]]
name = "ptu"
endpoint = "${URL}/v1/"
deployment = "gpt"
api = "openai"
version = "2024-08-06"
data_zone = "eu"
"""
EMBEDDING = """
[models.embedding]
kind = "embedding"
dimensions = 384
max_input_tokens = 256

[[models.embedding.deployments]]
name = "local"
endpoint = "https://x.example/openai/v1"
deployment = "minilm"
api = "azure-v1"
version = "1"
data_zone = "eu"
"""
SETTINGS = {"URL": "http://127.0.0.1:1234"}


def test_defaults_and_endpoints_are_filled_in() -> None:
    catalogue = parse_catalogue(CHAT + EMBEDDING, SETTINGS)
    chat, embedding = catalogue.models["chat"], catalogue.models["embedding"]
    assert not chat.can_synthesise
    assert chat.deployments[0].url("chat/completions") == "http://127.0.0.1:1234/v1/chat/completions"
    assert chat.deployments[0].weight == 1.0
    assert chat.deployments[0].requests_per_minute is None
    assert embedding.deployments[0].url("embeddings") == "https://x.example/openai/v1/embeddings"
    assert embedding.index == "embedding"
    assert embedding.tokenizer is None


def test_azures_older_form_carries_deployment_and_version_in_the_address() -> None:
    text = EMBEDDING.replace('"azure-v1"', '"azure-deployments"\napi_version = "2024-10-21"')
    deployment = parse_catalogue(text.replace("/openai/v1", ""), {}).models["embedding"].deployments[0]
    assert deployment.url("embeddings") == (
        "https://x.example/openai/deployments/minilm/embeddings?api-version=2024-10-21"
    )
    assert deployment.listing_url == "https://x.example/openai/models?api-version=2024-10-21"


def test_cost_counts_cached_tokens_at_their_own_price() -> None:
    prices = "price_input_per_million = 2\nprice_cached_input_per_million = 1\nprice_output_per_million = 8\n"
    deployment = parse_catalogue(CHAT + prices, SETTINGS).models["chat"].deployments[0]
    assert deployment.cost(1_000_000, 500_000, 250_000) == pytest.approx(1 + 0.5 + 2)


def second(**changes: str) -> str:
    lines = {"name": "b", "version": "2024-08-06", "data_zone": "eu", **changes}
    fields = "".join(f'{key} = "{value}"\n' for key, value in lines.items())
    table = '[[models.chat.deployments]]\nendpoint = "http://b"\ndeployment = "x"\napi = "openai"\n'
    return f"{CHAT}{table}{fields}"


def test_two_versions_may_stand_in_two_zones_but_not_in_one() -> None:
    parse_catalogue(second(), SETTINGS)
    parse_catalogue(second(version="2025-01-01", data_zone="us"), SETTINGS)
    with pytest.raises(CatalogueError, match=r"models\.chat\.deployments: .*one version"):
        parse_catalogue(second(version="2025-01-01"), SETTINGS)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ('kind = "chat"', "", "models.chat.kind: missing"),
        ('kind = "chat"', 'kind = "image"', "models.chat.kind: expected one of chat, embedding"),
        ("128000", "0", "models.chat.context_tokens: expected a whole number of at least 1"),
        ("128000", "true", "models.chat.context_tokens: expected a whole number"),
        ("can_synthesise", "can_synthesize", "models.chat.can_synthesize: there is no such key"),
        ('tokenizer = "o200k"', 'tokenizer = "gpt"', "models.chat.tokenizer: tokenizer 'gpt': expected"),
        ('name = "ptu"', 'name = "p t u"', "models.chat.deployments[0].name: letters"),
        ("${URL}", "${OTHER}", "models.chat.deployments[0].endpoint: the setting OTHER is not set"),
        ("${URL}", "ftp://x", "models.chat.deployments[0].endpoint: expected an http(s) URL"),
        ("${URL}", "http://user:pass@x", "models.chat.deployments[0].endpoint: a URL holds no credentials"),
        ('api = "openai"', 'api = "azure-deployments"', "models.chat.deployments[0].api_version: missing"),
        ('version = "2024-08-06"', "", "models.chat.deployments[0].version: missing"),
        ('data_zone = "eu"', 'data_zone = "eu"\nweight = 0', "weight: expected a number of more than 0"),
        ('data_zone = "eu"', 'data_zone = "eu"\nweight = nan', "weight: expected a number"),
        ('data_zone = "eu"', 'data_zone = "eu"\npriority = -1', "priority: expected a whole number"),
        ('data_zone = "eu"', 'data_zone = "eu"\ncapabilities = ["fly"]', "capabilities: expected a list of"),
        ("[[models.chat.deployments]]", "[models.chat.deployments]", "models.chat.deployments: expected [["),
        ("[models.chat]", "[models.chat", "models.toml: not valid TOML"),
        ("[models.chat]", "colour = 1\n[models.chat]", "colour: there is no such key"),
    ],
)
def test_a_mistake_is_reported_with_the_path_of_its_key(old: str, new: str, path: str) -> None:
    assert old in CHAT
    with pytest.raises(CatalogueError) as raised:
        parse_catalogue(CHAT.replace(old, new, 1), SETTINGS)
    assert path in str(raised.value)


def test_a_name_may_stand_only_once_and_a_model_needs_a_deployment() -> None:
    with pytest.raises(CatalogueError, match="same name"):
        parse_catalogue(second(name="ptu"), SETTINGS)
    with pytest.raises(CatalogueError, match="at least one deployment"):
        parse_catalogue(CHAT.split("[[")[0], SETTINGS)
    with pytest.raises(CatalogueError, match="there is no model"):
        parse_catalogue("", SETTINGS)


def test_a_reranker_needs_no_limits_and_is_found_by_its_version() -> None:
    text = EMBEDDING.replace("models.embedding", "models.rank").replace('"embedding"', '"rerank"')
    text = text.replace("dimensions = 384\nmax_input_tokens = 256\n", "")
    catalogue = parse_catalogue(CHAT + text, SETTINGS)
    assert catalogue.reranker() is catalogue.reranker(version="1") is catalogue.models["rank"]
    assert catalogue.reranker(version="2") is None
    assert parse_catalogue(CHAT, SETTINGS).reranker() is None


def test_a_batch_deployment_takes_batches_of_its_zone_and_no_call() -> None:
    model = parse_catalogue(second(name="night") + "batch = true\n", SETTINGS).models["chat"]
    assert [each.name for each in model.deployments] == ["ptu"]
    assert [each.name for each in model.batch_deployments] == ["night"]
    assert model.batch_deployment() == model.batch_deployment("eu") == model.batch_deployments[0]
    assert model.batch_deployment("us") is None
    with pytest.raises(CatalogueError, match=r"models\.chat\.deployments: at least one .* takes calls"):
        parse_catalogue(CHAT + "batch = true\n", SETTINGS)
