"""Which routers are believed (WF-3 to WF-6): roots by trust domain, and the name in a certificate."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

import caplane_wire as wire


class NotTrusted(Exception):
    """The router's certificate breaks a rule, or is not the one meant."""


class Trust:
    """Root certificates by trust domain (WF-5)."""

    def __init__(self):
        self._roots: dict[str, list[x509.Certificate]] = {}

    def add_file(self, domain: str, path: Path) -> None:
        self._roots.setdefault(domain, []).extend(x509.load_pem_x509_certificates(path.read_bytes()))

    def validate(self, leaf: x509.Certificate, above: list[x509.Certificate], expected: str | None) -> wire.Name:
        """The name of a router, when WF-3 and WF-5 hold for its certificate."""
        try:
            name = _leaf_name(leaf)
        except (wire.WireError, x509.ExtensionNotFound) as error:
            raise NotTrusted(f"certificate without what WF-3 asks for: {error}") from error
        if expected is not None and name.text != expected:
            raise NotTrusted(f"the router is {name.text}, not {expected}")
        roots = self._roots.get(name.trust_domain)
        if roots is None:
            raise NotTrusted(f"no roots for trust domain {name.trust_domain}")
        store = crypto.X509Store()
        for root in roots:
            store.add_cert(crypto.X509.from_cryptography(root))
        chain = [crypto.X509.from_cryptography(certificate) for certificate in above]
        try:
            crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), chain).verify_certificate()
        except crypto.X509StoreContextError as error:
            raise NotTrusted(f"no path to a root of {name.trust_domain}: {error}") from error
        return name


def _leaf_name(leaf: x509.Certificate) -> wire.Name:
    extensions = leaf.extensions
    alternative = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = alternative.get_values_for_type(x509.UniformResourceIdentifier)
    if len(names) != 1:
        raise NotTrusted(f"{len(names)} names of type URI instead of one")
    if not extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
        raise NotTrusted("key usage without digitalSignature")
    if ExtendedKeyUsageOID.SERVER_AUTH not in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value:
        raise NotTrusted("extended key usage without serverAuth")
    with contextlib.suppress(x509.ExtensionNotFound):
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise NotTrusted("a CA's certificate is no router's")
    return wire.parse_name(names[0])
