"""Makes the keys and the tokens of tests/it/tokens.rs, right ones and hostile ones, with a library that is not ours.

    tokens.py NOW    prints one JSON object: `sets`, what key servers answer, and `tokens`, all by name; `server`, for TLS
    tokens.py NOW ISSUER    also tokens of an issuer of OIDC

NOW is the time of the tokens in seconds since 1970. What must become of each token stands in the test.
"""

import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import sys

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PROJECT = "shop-1a2b"
ISSUER = "https://securetoken.google.com/" + PROJECT
CUSTOM = "https://identitytoolkit.googleapis.com/google.identity.identitytoolkit.v1.IdentityToolkit"
SHOP = "123e4567-e89b-42d3-a456-426614174000"
NOW = int(sys.argv[1])

old = rsa.generate_private_key(65537, 2048)
new = rsa.generate_private_key(65537, 3072)
stranger = rsa.generate_private_key(65537, 2048)
weak = rsa.generate_private_key(65537, 1024)
p256 = ec.generate_private_key(ec.SECP256R1())
p384 = ec.generate_private_key(ec.SECP384R1())
edwards = ed25519.Ed25519PrivateKey.generate()

ALGORITHMS = [
    (rsa.RSAPublicKey, RSAAlgorithm),
    (ec.EllipticCurvePublicKey, ECAlgorithm),
    (ed25519.Ed25519PublicKey, OKPAlgorithm),
]


def jwk(key, kid, **more):
    """The public part of a key as issuers publish it."""
    public = key.public_key()
    form = next(form for kind, form in ALGORITHMS if isinstance(public, kind))
    return {**json.loads(form.to_jwk(public)), "key_ops": ["verify"], "kid": kid, "use": "sig", **more}


def certificate(key):
    """The same as Google's older form has it: within a certificate that the key has signed itself."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "securetoken.system.gserviceaccount.com")])
    begin = datetime.datetime.fromtimestamp(NOW - 3600, datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1234567890).not_valid_before(begin)
    builder = builder.not_valid_after(begin + datetime.timedelta(days=16))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    signed = builder.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def server():
    """A certificate for this machine that no authority has signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    begin = datetime.datetime.fromtimestamp(NOW - 3600, datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=2))
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(here, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "certificate": base64.b64encode(signed.public_bytes(serialization.Encoding.DER)).decode(),
        "key": base64.b64encode(private).decode(),
    }


def claims(**changes):
    """What Firebase writes, with changes; `None` takes a claim out."""
    every = {
        "iss": ISSUER,
        "aud": PROJECT,
        "sub": "JKo4S3fQ2hXr9vYpWzT1aBcDeF12",
        "user_id": "JKo4S3fQ2hXr9vYpWzT1aBcDeF12",
        "auth_time": NOW - 60,
        "iat": NOW - 60,
        "exp": NOW + 3540,
        "firebase": {"identities": {}, "sign_in_provider": "password"},
        "role": "merchant",
        "shops": [SHOP],
        **changes,
    }
    return {name: value for name, value in every.items() if value is not None}


def part(value):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def sign(payload, key=old, algorithm="RS256", kid="old", **header):
    """A token; the payload may be bytes that are no JSON that PyJWT would write."""
    headers = {"kid": kid, **header} if kid is not None else header
    if isinstance(payload, bytes):
        return jwt.api_jws.PyJWS().encode(payload, key, algorithm=algorithm, headers=headers)
    return jwt.encode(payload, key, algorithm=algorithm, headers=headers)


def forged(header, payload, secret=None):
    """A token that PyJWT refuses to make."""
    signed = part(header) + "." + part(payload)
    signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest() if secret else b""
    return signed + "." + part(signature)


def bent(token):
    """The same token with one bit of its claims turned: a subject that is not the one that was signed."""
    header, payload, signature = token.split(".")
    padded = payload + "=" * (-len(payload) % 4)
    other = base64.urlsafe_b64decode(padded).replace(b"merchant", b"xerchant")
    return ".".join([header, part(other), signature])


public_pem = old.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
twice = json.dumps(claims())[:-1].encode() + b', "sub": "somebody-else"}'
escaped = json.dumps(claims())[:-1].encode() + b', "\\u0072ole": "admin"}'
within = json.dumps(claims())[:-1].encode() + b', "x": {"role": "a", "role": "b"}}'
float_exp = json.dumps(claims())[:-1].replace('"exp": %d' % (NOW + 3540), '"exp": %d.5' % (NOW + 3540)) + "}"
good = sign(claims())
head, body, tail = good.split(".")

tokens = {
    "good": good,
    "good of the new key": sign(claims(), new, kid="new"),
    "good of a role alone": sign(claims(role="admin", shops=None)),
    "good of a shopper": sign(claims(role="shopper", shops=None, shopper_id="ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94")),
    "good of one shop": sign(claims(shops=None, shop=SHOP)),
    "good and anonymous": sign(claims(firebase={"sign_in_provider": "anonymous"})),
    "good for ten days": sign(claims(exp=NOW + 864000)),
    "good with a slow clock": sign(claims(iat=NOW + 30, auth_time=NOW + 30)),
    "good with a subject of 128": sign(claims(sub="é" * 128)),
    "expired": sign(claims(exp=NOW - 1, iat=NOW - 3601, auth_time=NOW - 3601)),
    "expires now": sign(claims(exp=NOW)),
    "iat in the future": sign(claims(iat=NOW + 120)),
    "auth_time in the future": sign(claims(auth_time=NOW + 120)),
    "nbf in the future": sign(claims(nbf=NOW + 120)),
    "other audience": sign(claims(aud="other-project")),
    "audience as a list": sign(claims(aud=[PROJECT])),
    "audience missing": sign(claims(aud=None)),
    "audience with a space": sign(claims(aud=PROJECT + " ")),
    "other issuer": sign(claims(iss="https://securetoken.google.com/other-project")),
    "issuer with a slash": sign(claims(iss=ISSUER + "/")),
    "issuer missing": sign(claims(iss=None)),
    "issuer as a list": sign(json.dumps({**claims(), "iss": [ISSUER]}).encode()),
    "of a tenant": sign(claims(firebase={"sign_in_provider": "password", "tenant": "staff-1a2b"})),
    "tenant empty": sign(claims(firebase={"sign_in_provider": "password", "tenant": ""})),
    "tenant a list": sign(claims(firebase={"sign_in_provider": "password", "tenant": ["staff-1a2b"]})),
    "subject missing": sign(claims(sub=None)),
    "subject empty": sign(claims(sub="")),
    "subject of 129": sign(claims(sub="a" * 129)),
    "subject a number": sign(json.dumps({**claims(), "sub": 7}).encode()),
    "subject with a zero": sign(claims(sub="a\u0000b")),
    "exp missing": sign(claims(exp=None)),
    "exp as a text": sign(json.dumps({**claims(), "exp": str(NOW + 3540)}).encode()),
    "exp as a fraction": sign(float_exp.encode()),
    "exp null": sign(json.dumps({**claims(), "exp": None}).encode()),
    "exp beyond calendars": sign(json.dumps({**claims(), "exp": 10**18}).encode()),
    "exp beyond numbers": sign(json.dumps({**claims(), "exp": 10**30}).encode()),
    "exp negative": sign(json.dumps({**claims(), "exp": -1}).encode()),
    "iat missing": sign(claims(iat=None)),
    "auth_time missing": sign(claims(auth_time=None)),
    "auth_time as a text": sign(json.dumps({**claims(), "auth_time": str(NOW)}).encode()),
    "a claim twice": sign(twice),
    "a claim twice by an escape": sign(escaped),
    "a claim twice within": sign(within),
    "role a list": sign(claims(role=["admin"])),
    "shops a text": sign(claims(shops=SHOP)),
    "shops with a number": sign(claims(shops=[SHOP, 7])),
    "claims no object": sign(b"[]"),
    "claims no JSON": sign(b"\xff\xfe{"),
    "claims too deep": sign(b'{"a":' * 300 + b"1" + b"}" * 300),
    "custom": sign({"iss": "x@y.iam", "sub": "x@y.iam", "aud": CUSTOM, "iat": NOW, "exp": NOW + 3600, "uid": "u"}, stranger, kid=None),
    "custom with a key": sign({"iss": "x@y.iam", "sub": "x@y.iam", "aud": CUSTOM, "iat": NOW, "exp": NOW + 3600, "uid": "u"}, stranger, kid="sa"),
    "custom of old": forged({"alg": "HS256", "typ": "JWT"}, {"v": 0, "iat": NOW, "d": {"uid": "u"}}, b"secret"),
    "unknown key": sign(claims(), stranger, kid="stranger"),
    "no key": sign(claims(), kid=None),
    "key empty": sign(claims(), kid=""),
    "key a number": forged({"alg": "RS256", "kid": 7}, claims()),
    "key too long": sign(claims(), kid="k" * 257),
    "key of somebody else under our name": sign(claims(), stranger, kid="old"),
    "weak key": sign(claims(), weak, kid="weak"),
    "key for encryption": sign(claims(), stranger, kid="enc"),
    "alg none": forged({"alg": "none", "typ": "JWT", "kid": "old"}, claims()),
    "alg None": forged({"alg": "None", "kid": "old"}, claims()),
    "alg empty": forged({"alg": "", "kid": "old"}, claims()),
    "alg missing": forged({"kid": "old"}, claims()),
    "alg a list": forged({"alg": ["RS256"], "kid": "old"}, claims()),
    "alg HS256 with the public key": forged({"alg": "HS256", "kid": "old"}, claims(), public_pem),
    "alg HS256 with the modulus": forged(
        {"alg": "HS256", "kid": "old"}, claims(), old.public_key().public_numbers().n.to_bytes(256, "big")
    ),
    "alg ES256": sign(claims(), p256, "ES256", "p256"),
    "alg ES256 with the name of ours": sign(claims(), p256, "ES256", "old"),
    "alg RS512": sign(claims(), algorithm="RS512"),
    "alg PS256": sign(claims(), algorithm="PS256"),
    "alg twice": part(b'{"alg":"none","kid":"old","alg":"RS256"}') + "." + body + "." + tail,
    "crit": sign(claims(), crit=["x"], x=1),
    "bent": bent(good),
    "signature of another token": ".".join([head, body, sign(claims(sub="other")).split(".")[2]]),
    "signature missing": head + "." + body + ".",
    "signature cut": good[:-6],
    "signature with padding": good + "==",
    "two parts": head + "." + body,
    "four parts": good + ".x",
    "five parts": "a.b.c.d.e",
    "empty": "",
    "dots": "..",
    "with Bearer": "Bearer " + good,
    "with a newline": good + "\n",
    "huge": sign(claims(x="x" * 4096)),
}

elsewhere = {
    "iss": "ISSUER",
    "aud": "ezout-api",
    "sub": "auth0|1",
    "iat": NOW - 60,
    "exp": NOW + 3540,
    "jti": "token-7",
    "https://ezout.example/rights": {"role": "support", "shops": [SHOP], "shopper_id": None},
    "role": "admin",
}


def oidc(issuer):
    """Tokens of an issuer whose address is known only when it runs."""
    said = {**elsewhere, "iss": issuer}
    listed = {**said, "https://ezout.example/rights": ["admin"]}
    without = {name: value for name, value in said.items() if not name.startswith("https:")}
    return {
        "oidc RS256": sign(said),
        "oidc ES256": sign(said, p256, "ES256", "p256"),
        "oidc EdDSA": sign(said, edwards, "EdDSA", "edwards"),
        "oidc ES384": sign(said, p384, "ES384", "p384"),
        "oidc rights a list": sign(listed),
        "oidc without rights": sign(without),
        "oidc audience as a list": sign({**said, "aud": ["ezout-api", "userinfo"]}),
        "oidc other issuer": sign({**said, "iss": issuer + "/"}),
        "oidc ES256 under the name of RSA": sign(said, p256, "ES256", "old"),
    }


if len(sys.argv) > 2:
    tokens.update(oidc(sys.argv[2]))

unusable = [
    jwk(weak, "weak"),
    jwk(stranger, "enc", use="enc"),
    jwk(stranger, "RS512 only", alg="RS512"),
    jwk(stranger, "wraps", key_ops=["wrapKey"]),
    jwk(p384, "p384"),
    {"kty": "oct", "k": part(b"0123456789abcdef0123456789abcdef"), "kid": "shared", "alg": "HS256"},
    {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "garbage"},
    {"kty": "of next year", "kid": "future"},
    {"no": "key"},
    7,
]
sets = {
    "old": {"keys": [*unusable, jwk(old, "old", alg="RS256"), jwk(stranger, "old", alg="RS256")]},
    "new": {"keys": [jwk(new, "new", alg="RS256")]},
    "both": {"keys": [jwk(old, "old"), jwk(new, "new")]},
    "every kind": {"keys": [jwk(old, "old"), jwk(p256, "p256", alg="ES256"), jwk(edwards, "edwards"), jwk(p384, "p384")]},
    "unusable": {"keys": unusable},
    "many": {"keys": [jwk(new, "new %d" % number) for number in range(101)]},
    "certificates": {"old": certificate(old), "new": certificate(new), "weak": certificate(weak)},
}
json.dump({"sets": sets, "tokens": tokens, "server": server()}, sys.stdout)
