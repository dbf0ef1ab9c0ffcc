"""Identities, key agreement and certificates.

What comes in: randomness of the operating system. What goes out: signatures, pair secrets, sealed boxes, TLS files.
Read first: `identity.py`.

| file | what | source |
|---|---|---|
| identity.py | Ed25519 signatures and fingerprints | RFC 8032 |
| agreement.py | X25519 and ML-KEM-768 together; HKDF with labels | RFC 7748, FIPS 203, RFC 5869 |
| sealing.py | a box that one receiver can open | RFC 9180 with MLKEM768-X25519 |
| certificate.py | self-signed TLS certificates, pinned by the other side | RFC 5280 |
"""
