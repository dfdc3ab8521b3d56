"""An OpenID issuer as Entra ID is one: metadata and signing keys over HTTP, tokens signed with RS256."""

from __future__ import annotations

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa


class OpenIdIssuer:
    """Serves the issuers of some Entra tenants; ``tenants`` gives our tenant for each."""

    audience = str(uuid.uuid4())

    def __init__(self, tenants: int = 2) -> None:
        self.tenants = {str(uuid.uuid4()): f"t-{uuid.uuid4().hex[:12]}" for _ in range(tenants)}
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.requests: list[str] = []
        self.answers = True
        self.add_key("first")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def settings(self) -> dict[str, str]:
        """The settings of an app that takes this issuer's tokens."""
        pairs = ", ".join(f"{entra}={tenant}" for entra, tenant in self.tenants.items())
        return {
            "GROUNDWORK_ENTRA_AUTHORITY": self.url,
            "GROUNDWORK_ENTRA_AUDIENCE": self.audience,
            "GROUNDWORK_ENTRA_TENANTS": pairs,
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_key(self, kid: str) -> None:
        self.keys[kid] = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def issuer(self, tenant: str) -> str:
        return f"{self.url}/{tenant}/v2.0"

    def claims(self, number: int = 0, **changes: Any) -> dict[str, Any]:
        """The claims of a good token for the tenant of that number; a change to None leaves one out."""
        tenant = [*self.tenants][number]
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer(tenant),
            "aud": self.audience,
            "tid": tenant,
            "oid": str(uuid.uuid4()),
            "sub": "pairwise",
            "azp": "client",
            "scp": "access_as_user",
            "roles": ["reader"],
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "ver": "2.0",
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, number: int = 0, *, kid: str = "first", **changes: Any) -> str:
        """A signed access token."""
        return self.sign(self.claims(number, **changes), kid=kid)

    def sign(self, claims: dict[str, Any], *, kid: str = "first", named: str | None = None) -> str:
        """Sign ``claims`` with the key ``kid``; ``named`` is what the header claims it was."""
        return jwt.encode(claims, self.keys[kid], algorithm="RS256", headers={"kid": named or kid})

    def published(self) -> list[dict[str, Any]]:
        """The public keys as the issuer publishes them."""
        return [
            {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}
            for kid, key in self.keys.items()
        ]

    def _document(self, path: str) -> dict[str, Any] | None:
        tenant, _, rest = path.lstrip("/").partition("/")
        if tenant not in self.tenants or not self.answers:
            return None
        if rest == "v2.0/.well-known/openid-configuration":
            return {"issuer": self.issuer(tenant), "jwks_uri": f"{self.url}/{tenant}/discovery/v2.0/keys"}
        return {"keys": self.published()} if rest == "discovery/v2.0/keys" else None

    def _handler(issuer: OpenIdIssuer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests.append(self.path)
                document = issuer._document(self.path)
                data = json.dumps(document or {}).encode()
                self.send_response(200 if document else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *values: Any) -> None:
                pass

        return Handler
