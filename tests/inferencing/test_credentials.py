import asyncio
from dataclasses import dataclass

import pytest

from shared.inferencing import CatalogueError, Deployment, DeploymentCredentials, parse_catalogue


def deployment(api: str, extra: str = "") -> Deployment:
    return (
        parse_catalogue(
            f"""
            [models.m]
            kind = "chat"
            context_tokens = 1
            max_output_tokens = 1
            [[models.m.deployments]]
            name = "a"
            endpoint = "https://x.example"
            deployment = "d"
            api = "{api}"
            version = "1"
            data_zone = "eu"
            {extra}
            """,
            {},
        )
        .models["m"]
        .deployments[0]
    )


@dataclass
class Token:
    token: str
    expires_on: int


class Identity:
    def __init__(self) -> None:
        self.asked = 0

    async def get_token(self, *scopes: str) -> Token:
        assert scopes == ("https://cognitiveservices.azure.com/.default",)
        self.asked += 1
        await asyncio.sleep(0)
        return Token(f"token-{self.asked}", 3600 * self.asked)


async def test_a_key_goes_into_the_header_of_the_api() -> None:
    credentials = DeploymentCredentials({"KEY": "k"})
    assert await credentials(deployment("openai", 'key_setting = "KEY"')) == {"Authorization": "Bearer k"}
    assert await credentials(deployment("azure-v1", 'key_setting = "KEY"')) == {"api-key": "k"}
    assert await credentials(deployment("openai")) == {}


async def test_a_key_that_is_not_set_is_reported_by_its_name() -> None:
    with pytest.raises(CatalogueError, match="the setting KEY is not set"):
        await DeploymentCredentials({})(deployment("openai", 'key_setting = "KEY"'))


async def test_an_identitys_token_is_asked_for_once_and_renewed_before_it_expires() -> None:
    identity, now = Identity(), 0.0
    credentials = DeploymentCredentials({}, identity=identity, wall_clock=lambda: now)
    azure = deployment("azure-v1")
    answers = await asyncio.gather(*(credentials(azure) for _ in range(10)))
    assert all(answer == {"Authorization": "Bearer token-1"} for answer in answers)
    now = 3600 - 300
    assert await credentials(azure) == {"Authorization": "Bearer token-1"}
    now += 1
    assert await credentials(azure) == {"Authorization": "Bearer token-2"}
    assert identity.asked == 2
