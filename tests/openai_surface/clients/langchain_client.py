"""LangChain against the surface, as its documentation uses it. Prints what it saw as JSON."""

import json
import os

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings

ROOT, KEY = os.environ["SURFACE_URL"], os.environ["SURFACE_KEY"]


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def chat(model: str, **more: object) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{ROOT}/v1", api_key=KEY, model=model, max_retries=0, **more)


messages = [SystemMessage("Be brief."), HumanMessage("How much does the Heron 42 S weigh?")]
embeddings = OpenAIEmbeddings(
    base_url=f"{ROOT}/v1", api_key=KEY, model="embedding", check_embedding_ctx_length=False
)
azure = AzureChatOpenAI(
    azure_endpoint=ROOT, api_key=KEY, api_version="2024-10-21", azure_deployment="chat", max_retries=0
)
answer = chat("rag:pumps").invoke(messages)
vectors = embeddings.embed_documents(["one", "two"])
print(
    json.dumps(
        {
            "chat": chat("chat").invoke(messages).content,
            "stream": [piece.content for piece in chat("chat").stream(messages)],
            "usage": chat("chat").invoke(messages).usage_metadata["total_tokens"],
            "tools": [c["name"] for c in chat("calls").bind_tools([weather]).invoke(messages).tool_calls],
            "responses": chat("chat", use_responses_api=True).invoke(messages).text,
            "documents": answer.content,
            "azure": azure.invoke(messages).content,
            "vectors": [len(vector) for vector in vectors],
            "query": embeddings.embed_query("one") == vectors[0],
        }
    )
)
