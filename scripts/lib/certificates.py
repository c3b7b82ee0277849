"""A certificate authority of our own, and a certificate for localhost that it signed: `DIR/tls/ca.crt` is what a client needs."""

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
    pem = (directory / "server.key").read_text() + (directory / "server.crt").read_text()
    (directory / "server.pem").write_text(pem)
