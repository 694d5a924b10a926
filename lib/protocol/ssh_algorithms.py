"""What the inner SSH connection is made of: the gate offers this, the portal asks for this.

Every OpenSSH since 7.4 (RHEL 7; Debian 10 has 7.9, RHEL 8 has 8.0) knows what is not hybrid,
and the hybrids, which hold against a later quantum computer too, join where both sides know
them. No finite-field groups: whoever knows ed25519, the type of our keys, knows curve25519 (both
came in OpenSSH 6.5), and an exchange over such a group costs a gate up to a thousand times as much.
"""

from __future__ import annotations

#: Of key exchanges, the ones that some OpenSSH, or a gate without OpenSSL 3.5, does not know.
HYBRIDS = (
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
)
KEY_EXCHANGES = (*HYBRIDS, "curve25519-sha256", "curve25519-sha256@libssh.org")
#: AES-GCM only: as fast as OpenSSH's own in the gate, where chacha20 in Python is five times
#: slower, and AES-CTR would need a second pass for its MAC.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
#: AES-GCM brings its own; the protocol wants the names of some all the same.
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
#: Of the gate's host key and of the portal's key, and of what is signed with them.
KEY_TYPES = ("ssh-ed25519",)
