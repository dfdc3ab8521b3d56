"""Content in packs, over a real storage server: what is kept, found by its claim, and truly removed."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass

import pytest

from shared.knowledge.content import PACK_BYTES, ContentStore, piece_of
from shared.storage import PARSED, RAW, Storage


@dataclass(frozen=True)
class Place:
    """A content store, and a collection of the test's own in it."""

    storage: Storage
    store: ContentStore
    tenant: str

    async def put(self, pieces: dict[str, bytes], kind: str = RAW, origin: str = "job/00000"):
        return await self.store.put(self.tenant, "c", kind, origin, pieces)

    async def get(self, *claims: str) -> dict[str, bytes]:
        return await self.store.get(self.tenant, "c", claims)

    async def remove(self, *claims: str) -> None:
        await self.store.remove(self.tenant, "c", claims)

    async def blobs(self, kind: str = RAW) -> dict[str, bytes]:
        names = [blob.name async for blob in self.storage.list_blobs(kind, f"{self.tenant}/")]
        return {name: await self.storage.get_blob(kind, name) or b"" for name in names}


@pytest.fixture
def place(storage: Storage) -> Place:
    return Place(storage, ContentStore(storage), f"t-{uuid.uuid4().hex[:12]}")


def small(count: int) -> dict[str, bytes]:
    return {f"{n:040x}": f"Buoy {n}\n\x00\xff".encode("latin-1") for n in range(count)}


async def test_small_pieces_share_one_blob_and_each_is_found_by_its_claim(place: Place):
    pieces = small(100) | {"e" * 40: b""}
    claims = await place.put(pieces)
    assert len(await place.blobs()) == 1
    assert len({*claims.values()}) == 101
    found = await place.get(*claims.values())
    assert {name: found[claim] for name, claim in claims.items()} == pieces
    assert {piece_of(claim) for claim in claims.values()} == {*pieces}


@pytest.mark.parametrize(("second", "blobs"), [(PACK_BYTES - 10, 1), (PACK_BYTES - 9, 2)])
async def test_a_pack_holds_so_much_and_no_more(place: Place, second: int, blobs: int):
    pieces = {"a" * 40: b"a" * 10, "b" * 40: b"b" * second}
    claims = await place.put(pieces)
    assert len(await place.blobs()) == blobs
    assert {*(await place.get(*claims.values())).values()} == {*pieces.values()}


async def test_a_piece_without_company_is_a_blob_as_it_is(place: Place):
    claims = await place.put({"a" * 40: b"\n[1]\n"})
    assert [*(await place.blobs()).values()] == [b"\n[1]\n"]
    assert await place.get(claims["a" * 40]) == {claims["a" * 40]: b"\n[1]\n"}
    await place.remove(claims["a" * 40])
    assert await place.blobs() == {}


async def test_keeping_the_same_again_changes_nothing(place: Place):
    for pieces in (small(3), small(1)):
        first = await place.put(pieces)
        before = await place.blobs()
        assert await place.put(pieces) == first
        assert await place.blobs() == before


async def test_other_pieces_of_the_same_origin_take_no_ones_place(place: Place):
    one = await place.put({"a" * 40: b"one", "b" * 40: b"two"})
    other = await place.put({"a" * 40: b"other", "b" * 40: b"two"})
    assert (await place.get(one["a" * 40]))[one["a" * 40]] == b"one"
    assert (await place.get(other["a" * 40]))[other["a" * 40]] == b"other"


async def test_a_removed_piece_is_nowhere_and_its_neighbours_stay(place: Place):
    pieces = small(5)
    claims = await place.put(pieces)
    gone, *others = claims
    await place.remove(claims[gone])
    assert all(
        pieces[gone] not in data and gone.encode() not in data for data in (await place.blobs()).values()
    )
    found = await place.get(*claims.values())
    assert found == {claims[name]: pieces[name] for name in others}
    await place.remove(claims[gone])  # once more is fine
    await place.remove(*claims.values())
    assert await place.blobs() == {}
    assert await place.get(*claims.values()) == {}


async def test_removals_at_the_same_time_all_count(place: Place):
    claims = [*(await place.put(small(8))).values()]
    await asyncio.gather(*(place.remove(claim) for claim in claims[:6]))
    assert {*await place.get(*claims)} == {*claims[6:]}
    await asyncio.gather(*(place.remove(claim) for claim in claims))
    assert await place.blobs() == {}


async def test_what_was_removed_can_be_kept_again(place: Place):
    pieces = small(3)
    claims = await place.put(pieces)
    first, second, third = claims.values()
    await place.remove(first)
    assert await place.put(pieces) == claims
    assert len(await place.get(first, second, third)) == 3


async def test_what_no_claim_names_is_removed_of_one_origin_alone(place: Place):
    kept = await place.put(small(2))
    await place.put({f"{9:040x}": b"Mole"})
    await place.put({f"{8:040x}": b"Mole", f"{7:040x}": b"Pier"})
    other = await place.put(small(2), origin="job/00001")
    await place.store.remove_others(place.tenant, "c", RAW, "job/00000", kept.values())
    assert {*await place.get(*kept.values(), *other.values())} == {*kept.values(), *other.values()}
    assert len(await place.blobs()) == 2


async def test_claims_lead_nowhere_in_another_collection_or_tenant(place: Place):
    claims = await place.put(small(2))
    assert await place.store.get(place.tenant, "d", claims.values()) == {}
    assert await place.store.get("another", "c", claims.values()) == {}
    await place.store.remove("another", "c", claims.values())
    assert len(await place.get(*claims.values())) == 2


async def test_all_content_of_a_collection_or_a_job_can_be_told_and_removed(place: Place):
    raw = await place.put(small(2), RAW, "one/00000")
    alone = await place.put(small(1), RAW, "two/00000")
    parsed = await place.put(small(2), PARSED, "one/1/00000")
    packs = [pack async for pack in place.store.packs(place.tenant, "c")]
    assert sorted((pack.kind, pack.job) for pack in packs) == [(PARSED, "one"), (RAW, "one"), (RAW, "two")]
    assert all(pack.written > 1.7e9 for pack in packs)
    told = {claim for pack in packs for claim in await place.store.claims(place.tenant, "c", pack)}
    assert told == {*raw.values(), *alone.values(), *parsed.values()}

    await place.store.remove_job(place.tenant, "c", "one")
    assert {*await place.get(*told)} == {*alone.values()}
    await place.store.remove_collection(place.tenant, "c")
    assert [pack async for pack in place.store.packs(place.tenant, "c")] == []
    assert await place.store.claims(place.tenant, "c", packs[0]) == []
