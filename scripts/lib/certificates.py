"""A certificate authority of our own, and a certificate for localhost that it signed: `DIR/tls/ca.crt` is what a client needs. With
`DIR/tls/tokens.key` a test signs tokens that Kafka takes."""

import base64
import json
import shutil

from common import apt_install, run

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
DAYS = ["-days", "3650"]


def make(directory):
    """Make `ca.crt`, `server.crt` and `server.key`, where they are missing, and `server.pem`, the last two in one file."""
    if (directory / "server.pem").exists():
        return
    if not shutil.which("openssl"):
        apt_install("openssl")
    directory.mkdir(exist_ok=True)
    authority = ["-subj", "/CN=pg2ch test CA", "-keyout", "ca.key", "-out", "ca.crt"]
    run(["openssl", "req", "-x509", *KEY, *DAYS, *authority], cwd=directory)
    run(["openssl", "req", "-new", *KEY, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"], cwd=directory)
    (directory / "server.ext").write_text("subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1\n")
    sign = ["openssl", "x509", "-req", *DAYS, "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
    run([*sign, "-extfile", "server.ext", "-out", "server.crt"], cwd=directory)
    signing_key(directory)
    pem = (directory / "server.key").read_text() + (directory / "server.crt").read_text()
    (directory / "server.pem").write_text(pem)


def signing_key(directory):
    """Make a key for tokens, and the document in which a server that gives out tokens publishes it (RFC 7517)."""
    run(["openssl", "genrsa", "-out", "tokens.key", "2048"], cwd=directory)
    modulus = run(["openssl", "rsa", "-in", "tokens.key", "-noout", "-modulus"], cwd=directory).split("=")[1].strip()
    encoded = base64.urlsafe_b64encode(bytes.fromhex(modulus)).decode().rstrip("=")
    key = {"kty": "RSA", "kid": "test", "use": "sig", "alg": "RS256", "n": encoded, "e": "AQAB"}
    (directory / "tokens.jwks").write_text(json.dumps({"keys": [key]}))
