"""Checks to take away, one at a time: each has tests that must then fail.

`python dev.py test --security --mutations` applies each to a copy of the tree and runs its tests there.
A mutation whose text is gone from the source fails as well: whoever changes a check says here how it can
be missed from then on.
"""

from __future__ import annotations

from dataclasses import dataclass

ROUTES = "tests/security/test_route_table.py"
OBJECTS = "tests/security/test_object_access.py"
ACCESS = "tests/functions/test_edge_access.py"
ENTRA = "tests/shared/test_entra.py"
KEYS = "tests/shared/test_keys.py"


@dataclass(frozen=True)
class Mutation:
    """``old`` becomes ``new`` in ``file``; of the ``tests`` (pytest's arguments) at least one must fail."""

    name: str
    risks: tuple[str, ...]
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    # --- who calls ---
    Mutation(
        "any secret is taken for a key's own",
        ("API2",),
        "shared/keys.py",
        "if not hmac.compare_digest(offered, found.sha256):",
        "if False:",
        (f"{KEYS}::test_a_key_that_is_wrong_in_any_part_proves_nothing",),
    ),
    Mutation(
        "keys never end",
        ("API2",),
        "shared/keys.py",
        'if found.state != "active":',
        "if False:",
        (f"{KEYS}::test_a_refused_key_tells_whose_it_is_to_the_audit_and_not_to_the_caller",),
    ),
    Mutation(
        "a revoked key is remembered",
        ("API2",),
        "shared/keys.py",
        "        self._known.pop(key.sha256, None)",
        "        pass",
        (f"{KEYS}::test_a_revoked_key_proves_nothing_at_once_where_it_was_revoked",),
    ),
    Mutation(
        "tokens are not checked for their signature",
        ("API2",),
        "shared/entra.py",
        'options={"require"',
        'options={"verify_signature": False, "require"',
        (ENTRA, "-k", "changed"),
    ),
    Mutation(
        "tokens for others are taken",
        ("API2",),
        "shared/entra.py",
        'options={"require"',
        'options={"verify_aud": False, "require"',
        (ENTRA, "-k", "audience"),
    ),
    Mutation(
        "tokens of any issuer are taken",
        ("API2",),
        "shared/entra.py",
        'options={"require"',
        'options={"verify_iss": False, "require"',
        (ENTRA, "-k", "issuer"),
    ),
    Mutation(
        "tokens never expire",
        ("API2",),
        "shared/entra.py",
        'options={"require"',
        'options={"verify_exp": False, "require"',
        (ENTRA, "-k", "expired"),
    ),
    Mutation(
        "ID tokens are taken",
        ("API2",),
        "shared/entra.py",
        "if not _is_access_token(claims):",
        "if False:",
        (ENTRA, "-k", "ID"),
    ),
    Mutation(
        "groups of an incomplete list are believed",
        ("API1", "LLM02"),
        "shared/entra.py",
        "if elsewhere or len(groups)",
        "if len(groups)",
        (ENTRA, "-k", "groups"),
    ),
    Mutation(
        "the issuer is asked for every unknown key",
        ("API4", "API10"),
        "shared/entra.py",
        "if fresh or self._clock() - self._asked < REFETCH_SECONDS:",
        "if fresh:",
        (ENTRA, "-k", "flood"),
    ),
    Mutation(
        "an ingress is trusted wherever the host runs",
        ("API8",),
        "shared/config.py",
        "if not on and not _is_loopback(",
        "if False and not _is_loopback(",
        ("tests/shared/test_config.py", "-k", "ingress"),
    ),
    Mutation(
        "the header of an ingress is always believed",
        ("API2", "API8"),
        "functions/services.py",
        "trusted_ingress=entra if self.settings.trusts_ingress else None",
        "trusted_ingress=entra",
        ("tests/security/test_tokens.py", "-k", "header"),
    ),
    Mutation(
        "failures are not counted",
        ("API2", "API4"),
        "shared/authentication.py",
        "too_many = any(self._counts[name] > self._most for name in names)",
        "too_many = False",
        ("tests/shared/test_authentication.py",),
    ),
    # --- what the caller may do ---
    Mutation(
        "no role is needed",
        ("API5",),
        "functions/http.py",
        "    call.principal.require(role)\n",
        "",
        (ROUTES, "-k", "serves_the_roles and keys"),
    ),
    Mutation(
        "a route needs less than it should",
        ("API5",),
        "functions/identity.py",
        '"GET", "/api/audit", role=Role.ADMINISTRATOR',
        '"GET", "/api/audit"',
        (ROUTES, "-k", "needs_the_role"),
    ),
    Mutation(
        "a route goes around the decorator",
        ("API2", "API9"),
        "functions/health.py",
        "blueprint = df.Blueprint()\n",
        'blueprint = df.Blueprint()\n\n\n@blueprint.route(route="debug", methods=["GET"])\n'
        "async def debug(req: Request) -> Response:\n    return JSONResponse({})\n",
        (ROUTES, "-k", "every_http_function"),
    ),
    Mutation(
        "an administrator makes keys for other tenants",
        ("API1", "API5"),
        "functions/identity.py",
        '    if not call.principal.may(Role.PLATFORM):\n        raise Forbidden("Only',
        '    if False:\n        raise Forbidden("Only',
        (ACCESS, "-k", "makes_keys"),
    ),
    Mutation(
        "the platform's role is given away",
        ("API5",),
        "functions/identity.py",
        "if Role.PLATFORM in body.roles:",
        "if False:",
        (ACCESS, "-k", "makes_keys"),
    ),
    Mutation(
        "a limited key makes itself an unlimited one",
        ("API1", "API5"),
        "functions/http.py",
        "if role is Role.ADMINISTRATOR and call.principal.collections is not None:",
        "if False:",
        (OBJECTS, "-k", "other_collections and keys"),
    ),
    # --- what the caller may see ---
    Mutation(
        "keys of other tenants can be had by their ids",
        ("API1",),
        "functions/identity.py",
        "if key.principal.tenant != call.principal.tenant and not call.principal.may(Role.PLATFORM):",
        "if False:",
        (OBJECTS, "-k", "another_tenant and keys"),
    ),
    Mutation(
        "a query says whose collection is shown",
        ("API1", "API3"),
        "functions/collections.py",
        '    collection = await services().collections.get(call.principal.tenant, call.path("collection"))\n',
        '    whose = call.query("tenant", call.principal.tenant)\n'
        '    collection = await services().collections.get(whose, call.path("collection"))\n',
        (OBJECTS, "-k", "no_query_names and collection"),
    ),
    Mutation(
        "a key's limit to collections is not looked at",
        ("API1",),
        "functions/http.py",
        "if collection is not None and not call.principal.reaches(collection):",
        "if False:",
        (OBJECTS, "-k", "other_collections and documents"),
    ),
    Mutation(
        "documents are shown to everyone in the tenant",
        ("API1", "LLM02"),
        "functions/collections.py",
        "    return not {*readers}.isdisjoint(call.principal.readers)",
        "    return True",
        (ACCESS, "-k", "with_readers"),
    ),
    Mutation(
        "the embedded index does not ask who reads",
        ("API1", "LLM02", "LLM08"),
        "shared/knowledge/index/shard.py",
        "    access = AnyOf(ACCESS, tuple(readings))",
        "    owners = (_joined(request.tenant, collection) for collection in request.collections)\n"
        "    access = AnyOf(OWNER, (*owners, *[each for each in readings if not each]))",
        ("tests/knowledge_index/test_contract.py", "-k", "principals or readers or may_see"),
    ),
    Mutation(
        "the index of Azure does not ask whose it is",
        ("API1", "LLM08"),
        "shared/knowledge/index/azure_search.py",
        'access = (Eq("tenant", request.tenant), _in_layouts(request), AnyOf("readers", request.readers))',
        'access = (_in_layouts(request), AnyOf("readers", request.readers))',
        ("tests/knowledge_index/test_contract.py", "-k", "other_tenants"),
    ),
    Mutation(
        "an access list that was narrowed holds from the next ingestion only",
        ("API1", "LLM02", "LLM08"),
        "shared/knowledge/retrieval.py",
        "    return not {*caller}.isdisjoint(readers_of[hit.chunk.collection] if own is None else own)",
        "    return True",
        (ACCESS, "-k", "closed_later"),
    ),
    Mutation(
        "denials leave no trace",
        ("API1", "API5"),
        "functions/http.py",
        "        await call.audit(call.object, reason=error.code)",
        "        pass",
        (ACCESS, "-k", "denied_is_in_the_trail"),
    ),
    # --- what the caller may set and use up ---
    Mutation(
        "members that nobody knows are ignored",
        ("API3",),
        "functions/http.py",
        'model_config = ConfigDict(extra="forbid", frozen=True)',
        'model_config = ConfigDict(extra="ignore", frozen=True)',
        (OBJECTS, "-k", "no_body_sets and owner"),
    ),
    Mutation(
        "quotas refuse nothing",
        ("API4", "API6", "LLM10"),
        "shared/quotas.py",
        "if limit is None or more <= 0 or present + more <= limit:",
        "if True:",
        ("tests/shared/test_quotas.py",),
    ),
    Mutation(
        "two writers can take the last place",
        ("API4",),
        "shared/quotas.py",
        '            await self._storage.replace_row(TABLE, changed, row["etag"])',
        "            await self._storage.put_row(TABLE, changed)",
        ("tests/shared/test_quotas.py", "-k", "many_writers"),
    ),
    Mutation(
        "bodies have no limit",
        ("API4",),
        "functions/http.py",
        "        if declared.isdigit() and int(declared) > limit:",
        "        if False:",
        ("tests/functions/test_edge_requests.py", "-k", "beyond"),
    ),
    # --- what is asked of others, and what comes of it ---
    Mutation(
        "any address may be asked",
        ("API7", "API10"),
        "shared/outgoing.py",
        "return port in PORTS and is_public(address)",
        "return True",
        ("tests/shared/test_outgoing.py", "-k", "not_public"),
    ),
    Mutation(
        "what a name stands for is not looked at where the socket is made",
        ("API7",),
        "shared/outgoing.py",
        "if not self._may_reach(ipaddress.ip_address(host), port):",
        "if False:",
        ("tests/shared/test_outgoing.py", "-k", "TestNames"),
    ),
    Mutation(
        "questions are not screened",
        ("LLM01",),
        "shared/intelligence/answers.py",
        "            self._screen.check(conversation)",
        "            pass",
        ("tests/functions/test_edge_screening.py", "-k", "every_mode and whole"),
    ),
    Mutation(
        "passages are not screened",
        ("LLM01", "LLM04"),
        "shared/intelligence/screening/__init__.py",
        "        bad = self.judge(passages)",
        "        bad: set[int] = set()",
        ("tests/intelligence/test_screening.py", "-k", "withheld"),
    ),
    Mutation(
        "texts are read as they stand, not as they mean",
        ("LLM01",),
        "shared/intelligence/screening/reading.py",
        "    return [folded(each) for each in found]",
        "    return [text.lower()]",
        ("tests/intelligence/test_screening.py", "-k", "encoded or disguised or refused"),
    ),
    Mutation(
        "weights are loaded whatever they are",
        ("LLM03",),
        "modelhost/weights.py",
        "    if actual != sha256.lower():",
        "    if False:",
        ("tests/modelhost/test_modelhost_server.py", "-k", "digest"),
    ),
    Mutation(
        "anything may be shipped",
        ("LLM03",),
        "laptop/supply_chain.py",
        "return bool(self.licence) and not COPYLEFT.search(self.licence)",
        "return bool(self.licence)",
        ("tests/security/test_supply_chain.py", "-k", "asks_for_more"),
    ),
    Mutation(
        "a service may be told to read with its own identity",
        ("LLM06",),
        "functions/openai_surface.py",
        'for name in ("data_sources", "dataSources"):',
        "for name in ():",
        ("tests/openai_surface/test_openai_pass_through.py", "-k", "own_identity"),
    ),
    Mutation(
        "a model may repeat its rules",
        ("LLM07",),
        "shared/intelligence/synthesis.py",
        "if any(phrase in self._held for phrase in self._confidential):",
        "if False:",
        ("tests/intelligence/test_answers.py", "-k", "repeats_its_instructions and rules"),
    ),
    Mutation(
        "citations of passages that there are not stay",
        ("LLM09",),
        "shared/intelligence/citations.py",
        "valid = [number for number in numbers if 1 <= number <= passages]",
        "valid = numbers",
        ("tests/intelligence/test_citations.py",),
    ),
    # --- what is given away ---
    Mutation(
        "the console loads scripts from anywhere",
        ("API8", "LLM05"),
        "functions/console.py",
        "script-src 'self'",
        "script-src *",
        ("tests/functions/test_edge_contract.py", "-k", "strict_policy"),
    ),
    Mutation(
        "the console serves any file",
        ("API8",),
        "functions/console.py",
        "path.is_relative_to(WEB) and path.is_file()",
        "path.is_file()",
        ("tests/functions/test_edge_contract.py", "-k", "own_files"),
    ),
    Mutation(
        "keys are stored as they are",
        ("API2", "API8"),
        "shared/keys.py",
        "    return hashlib.sha256(key.encode()).hexdigest()",
        "    return key",
        (f"{KEYS}::test_a_key_is_stored_as_its_digest_alone",),
    ),
)
