"""Semantic Kernel against the surface, as its documentation uses it. Prints what it saw as JSON.

Its Azure connector takes https alone, which a laptop's stack does not serve.
"""

import asyncio
import json
import os

from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
    OpenAITextEmbedding,
)
from semantic_kernel.contents import ChatHistory

ROOT, KEY = os.environ["SURFACE_URL"], os.environ["SURFACE_KEY"]


async def main() -> None:
    client = AsyncOpenAI(base_url=f"{ROOT}/v1", api_key=KEY, max_retries=0)
    settings = OpenAIChatPromptExecutionSettings()
    history = ChatHistory(system_message="Be brief.")
    history.add_user_message("How much does the Heron 42 S weigh?")
    chat = OpenAIChatCompletion(ai_model_id="chat", async_client=client)
    documents = OpenAIChatCompletion(ai_model_id="rag:pumps", async_client=client)
    embedding = OpenAITextEmbedding(ai_model_id="embedding", async_client=client)
    pieces = [str(piece) async for piece in chat.get_streaming_chat_message_content(history, settings)]
    vectors = await embedding.generate_embeddings(["one", "two"])
    seen = {
        "chat": str(await chat.get_chat_message_content(history, settings)),
        "stream": pieces,
        "documents": str(await documents.get_chat_message_content(history, settings)),
        "vectors": [len(vector) for vector in vectors],
    }
    print(json.dumps(seen))


asyncio.run(main())
