"""The fixtures of `world`, for every test of this folder."""

from tests.intelligence.world import chat_model, ranker, servers, world

__all__ = ["chat_model", "ranker", "servers", "world"]
