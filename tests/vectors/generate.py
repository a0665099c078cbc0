#!/usr/bin/env python3
"""The text form and the derivations of a keyclasp key, and golden vectors made from them.

A second implementation, written from README.md and without a look at the Rust one: where the two
disagree, one of them is wrong. Needs Python 3.9 or later and argon2-cffi (PyPI); nothing here reads
a clock or a random source.

    python3 generate.py            write the JSON files beside this one
    python3 generate.py --check    fail if they differ from what it would write
"""

import base64
import hashlib
import hmac
import json
import string
import sys
import zlib
from pathlib import Path

from argon2.low_level import ARGON2_VERSION, Type, hash_secret, hash_secret_raw, verify_secret

# ---------------------------------------------------------------------------------------------
# Base62: big-endian, fixed width, no overflow.

DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID, SECRET, CRC = (22, 16), (54, 40), (6, 4)  # (digits, bytes) of the three numbers in a key


def encode(data, width):
    number, digits = int.from_bytes(data, "big"), ""
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits = DIGITS[digit] + digits
    assert number == 0, "does not fit"
    return digits


def value(digits):
    number = 0
    for digit in digits:
        number = number * 62 + DIGITS.index(digit)
    return number


def spell(number, width):
    """Any number that fits the digits, also one that does not fit the bytes they stand for."""
    assert number < 62**width
    return encode(number.to_bytes(64, "big"), width)


# ---------------------------------------------------------------------------------------------
# Derivations.


def hmac256(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def derived(pepper, purpose):
    """K_x, for x in tag, hash, idempotency, import."""
    assert len(pepper) == 32
    return hmac256(pepper, b"keyclasp/v1/" + purpose.encode())


def tag(pepper, prefix, id, random):
    message = bytes([len(prefix)]) + prefix.encode() + id + random
    return hmac256(derived(pepper, "tag"), message)[:8]


def password(pepper, id, random):
    return hmac256(derived(pepper, "hash"), id + random)


def argon2id(pepper, id, random, m_kib, t, p):
    return hash_secret_raw(
        password(pepper, id, random), salt=id, time_cost=t, memory_cost=m_kib, parallelism=p,
        hash_len=32, type=Type.ID, version=0x13,
    )


OWNER_KINDS = {"USER": 1, "SERVICE_ACCOUNT": 2, "CLIENT": 3, "EXTERNAL": 4}


def bucket(realm, owner_kind, owner_id):
    kind = bytes([OWNER_KINDS[owner_kind]])
    return hashlib.sha256(realm.encode() + b"\0" + kind + b"\0" + owner_id.encode()).digest()[0]


# ---------------------------------------------------------------------------------------------
# The text.

TAIL = 1 + 22 + 1 + 60  # what follows the prefix
SHORTEST, LONGEST = 2 + TAIL, 24 + TAIL


def crc32(text):
    return zlib.crc32(text.encode())


def sealed(body):
    """`body` (everything before the checksum, damaged or not) and the checksum that is right for it."""
    return body + spell(crc32(body), 6)


def body_of(prefix, id, random, tag):
    return f"{prefix}_{encode(id, 22)}_{encode(random + tag, 54)}"


def key_text(pepper, prefix, id, random):
    return sealed(body_of(prefix, id, random, tag(pepper, prefix, id, random)))


REASONS = ["length", "alphabet", "separator", "prefix", "overflow", "checksum"]


def faults(text):
    """Which checks refuse `text`, in order. Later checks look at what they can still make out."""
    raw = text.encode()
    found = set()
    if not SHORTEST <= len(raw) <= LONGEST:
        found.add("length")
    if any(byte not in (DIGITS + "_").encode() for byte in raw):
        found.add("alphabet")
    prefix, tail = raw[:-TAIL], raw[-TAIL:]
    if len(tail) == TAIL:
        if [i for i, byte in enumerate(tail) if byte == ord("_")] != [0, 23]:
            found.add("separator")
        if prefix:
            first, last = chr(prefix[0]), chr(prefix[-1])
            shout = any(chr(byte) in string.ascii_uppercase for byte in prefix)
            if shout or first in string.digits + "_" or last == "_":
                found.add("prefix")
        for part, size in ((tail[1:23], 16), (tail[24:78], 40), (tail[78:], 4)):
            digits = part.decode("latin-1")
            if all(digit in DIGITS for digit in digits) and value(digits) >= 256**size:
                found.add("overflow")
    crc = raw[-6:].decode("latin-1")
    if len(raw) >= 6 and all(digit in DIGITS for digit in crc) and value(crc) < 2**32:
        if value(crc) != zlib.crc32(raw[:-6]):
            found.add("checksum")
    return [reason for reason in REASONS if reason in found]


def parse(text):
    """(prefix, id, random, tag) of a well-formed text; ValueError(reason) of any other."""
    found = faults(text)
    if found:
        raise ValueError(found[0])
    prefix, id, secret = text[:-TAIL], text[-TAIL + 1 : -61], text[-60:-6]
    payload = value(secret).to_bytes(40, "big")
    return prefix, value(id).to_bytes(16, "big"), payload[:32], payload[32:]


def genuine(pepper, text):
    """Well-formed, and its tag is right under this pepper: the rest needs the store."""
    prefix, id, random, presented = parse(text)
    return hmac.compare_digest(presented, tag(pepper, prefix, id, random))


# ---------------------------------------------------------------------------------------------
# valid.json


def fixed(label, size):
    """Bytes that look random and never change."""
    return hashlib.sha256(b"keyclasp test vectors/" + label.encode()).digest()[:size]


PEPPER_A = fixed("pepper a", 32)
PEPPER_B = fixed("pepper b", 32)
ALICE = "0b9d3c0e-6f5a-4c1d-9a51-3f7f0c2d8e11"
LIGHT, OTHER, PARALLEL, HEAVY = (64, 1, 1), (256, 2, 1), (256, 3, 2), (19456, 2, 1)


def valid_vector(name, prefix="kc", pepper=PEPPER_A, realm="acme", kind="USER", owner=ALICE,
                 id=None, random=None, profiles=(LIGHT, OTHER)):
    home = bucket(realm, kind, owner)
    id = id or bytes([home]) + fixed(name + "/id", 15)
    random = random or fixed(name + "/random", 32)
    assert id[0] == home and len(id) == 16 and len(random) == 32
    text = key_text(pepper, prefix, id, random)
    return {
        "name": name,
        "pepper_hex": pepper.hex(),
        "realm": realm,
        "owner_kind": kind,
        "owner_id": owner,
        "bucket": home,
        "prefix": prefix,
        "id_hex": id.hex(),
        "id": encode(id, 22),
        "random_hex": random.hex(),
        "tag_hex": tag(pepper, prefix, id, random).hex(),
        "crc": crc32(text[:-6]),
        "text": text,
        "password_hex": password(pepper, id, random).hex(),
        "argon2": [
            {"m_kib": m, "t": t, "p": p, "digest_hex": argon2id(pepper, id, random, m, t, p).hex()}
            for m, t, p in profiles
        ],
        "k_tag_hex": derived(pepper, "tag").hex(),
        "k_hash_hex": derived(pepper, "hash").hex(),
        "k_idempotency_hex": derived(pepper, "idempotency").hex(),
        "k_import_hex": derived(pepper, "import").hex(),
        "pepper_check_hex": hmac256(pepper, b"check").hex(),
    }


def owner_in(wanted):
    """The first of user-0, user-1, ... whose keys live in the wanted bucket."""
    return next(o for o in (f"user-{n}" for n in range(10**6)) if bucket("acme", "USER", o) == wanted)


def random_where(label, wanted):
    """The first of a fixed sequence that gives the default prefix's key a rare property."""
    id = bytes([bucket("acme", "USER", ALICE)]) + fixed(label + "/id", 15)
    for n in range(10**6):
        random = fixed(f"{label}/random/{n}", 32)
        if wanted(tag(PEPPER_A, "kc", id, random), key_text(PEPPER_A, "kc", id, random)):
            return {"id": id, "random": random}


def valid():
    default = valid_vector("default_prefix", profiles=(LIGHT, OTHER, PARALLEL, HEAVY))
    same_key = {"id": bytes.fromhex(default["id_hex"]), "random": bytes.fromhex(default["random_hex"])}
    vectors = [
        default,
        valid_vector("prefix_with_underscore", prefix="ic_key", kind="SERVICE_ACCOUNT"),
        valid_vector("prefix_shortest", prefix="k0"),
        valid_vector("prefix_longest", prefix="abcdefghijklmnopqrstuvwx"),
        valid_vector("prefix_longest_mixed", prefix="z9_0__long_1_prefix_2_a7"),
        valid_vector("prefix_doubled_underscore_inside", prefix="a__b"),
        # The tag binds the prefix, what is stored does not: same password, same digests.
        valid_vector("default_key_under_another_prefix", prefix="ic_key", **same_key),
        valid_vector("default_key_under_another_pepper", pepper=PEPPER_B, **same_key),
        valid_vector("second_key_of_the_same_owner"),
        valid_vector("all_zero", pepper=bytes(32), owner=owner_in(0), id=bytes(16), random=bytes(32),
                     profiles=(LIGHT, OTHER, HEAVY)),
        valid_vector("all_ff", pepper=b"\xff" * 32, owner=owner_in(255), id=b"\xff" * 16,
                     random=b"\xff" * 32, profiles=(LIGHT, OTHER, HEAVY)),
    ]
    for kind in OWNER_KINDS:  # one owner id, four owners
        vectors.append(valid_vector(f"kind_{kind.lower()}", kind=kind, owner="same-id"))
    vectors += [
        # Bytes of the name as given: no normalization, no case folding.
        valid_vector("unicode_composed", realm="Z\u00fcrich-\u6771\u4eac", owner="\u00c5ngstr\u00f6m"),
        valid_vector("unicode_decomposed", realm="Zu\u0308rich-\u6771\u4eac", owner="A\u030angstro\u0308m"),
        valid_vector("unicode_beyond_the_basic_plane", realm="\U0001f511realm", kind="EXTERNAL",
                     owner="owner\U0001f469\u200d\U0001f680"),
        valid_vector("realm_and_owner_shortest", realm="r", kind="CLIENT", owner="o"),
        valid_vector("realm_and_owner_longest", realm="R" * 255, kind="CLIENT", owner="o" * 255),
        valid_vector("realm_and_owner_longest_not_ascii", realm="\u20ac" * 255, kind="EXTERNAL",
                     owner="\U0001f511" * 255),
        valid_vector("owner_with_spaces_and_slashes", kind="EXTERNAL", owner=" spiffe://acme.example/ns/a b "),
        valid_vector("tag_begins_with_zero", **random_where("tag begins", lambda t, _: t[0] == 0)),
        valid_vector("tag_ends_with_zero", **random_where("tag ends", lambda t, _: t[-1] == 0)),
        valid_vector("crc_begins_with_zeros", **random_where("crc low", lambda _, x: x[-6:-4] == "00")),
        valid_vector("crc_top_bit_set", **random_where("crc high", lambda _, x: crc32(x[:-6]) > 0xF0000000)),
        valid_vector("random_begins_with_zeros", random=bytes(16) + fixed("low random", 16)),
    ]
    return vectors


# ---------------------------------------------------------------------------------------------
# malformed.json


def malformed():
    """Each text is one step away from a key with a right tag under PEPPER_A."""
    id, random = bytes([bucket("acme", "USER", ALICE)]) + fixed("malformed/id", 15), fixed("malformed/random", 32)
    key = key_text(PEPPER_A, "ic_key", id, random)
    plain = key_text(PEPPER_A, "kc", id, random)
    body, end = key[:-6], len(key)
    digits, secret = encode(id, 22), body[-54:]
    vectors = []

    def add(name, reason, text, alone=True):
        """`alone`: no other check would refuse it. Without, the reason is the first of several."""
        found = faults(text)
        assert found[0] == reason and (found == [reason]) == alone, (name, found)
        vectors.append({"name": name, "text": text, "reason": reason})

    def overlay(at, char):
        """`char` over as many bytes as it takes, so that all else keeps its place; `at` from the right."""
        raw, size = key.encode(), len(char.encode())
        damaged = (raw[: end - at] + char.encode() + raw[end - at + size :]).decode()
        return sealed(damaged[:-6]) if at - size >= 6 else damaged

    # Length, in bytes.
    add("empty", "length", "")
    add("one_character", "length", "k")
    add("underscore_only", "length", "_")
    add("prefix_only", "length", "kc_")
    add("checksum_only", "length", "000000")
    add("no_prefix_and_no_separator", "length", sealed(f"{digits}_{secret}"))
    add("no_prefix", "length", sealed(f"_{digits}_{secret}"))
    add("prefix_of_one", "length", key_text(PEPPER_A, "k", id, random))
    add("prefix_of_25", "length", key_text(PEPPER_A, "abcdefghijklmnopqrstuvwxy", id, random))
    wrapped = "a" * 258  # its length in one byte would be that of a prefix of 2
    wrapped_tag = hmac256(derived(PEPPER_A, "tag"), b"\x02" + wrapped.encode() + id + random)[:8]
    add("prefix_of_258", "length", sealed(body_of(wrapped, id, random, wrapped_tag)))
    add("very_long", "length", sealed("a" * 4096 + "_" + body[7:]))
    add("two_keys", "length", plain + plain, alone=False)
    add("shortest_key_without_its_last_character", "length", plain[:-1], alone=False)
    add("shortest_key_without_its_first_character", "length", plain[1:], alone=False)
    add("shortest_key_with_an_id_of_21", "length", sealed(f"kc_{digits[1:]}_{plain[-60:-6]}"), alone=False)

    # Alphabet: any byte but 0-9 A-Z a-z _, wherever it is.
    padding = {"space": " ", "tab": "\t", "newline": "\n", "carriage_return": "\r", "nul": "\0",
               "no_break_space": "\u00a0", "zero_width_space": "\u200b", "byte_order_mark": "\ufeff"}
    for name, char in padding.items():
        add(f"{name}_before", "alphabet", char + key, alone=False)
        add(f"{name}_before_with_right_checksum", "alphabet", sealed(char + body))
        add(f"{name}_after", "alphabet", key + char, alone=False)
    add("crlf_after", "alphabet", key + "\r\n", alone=False)
    add("quoted", "alphabet", f'"{key}"', alone=False)
    add("with_scheme", "alphabet", f"ApiKey {key}", alone=False)
    places = {"prefix": 87, "id_first": 83, "id_middle": 72, "id_last": 62, "secret_first": 60,
              "secret_middle": 33, "secret_last": 7}
    for place, at in places.items():
        for name, char in {"hyphen": "-", "plus": "+", "slash": "/", "space": " ", "newline": "\n",
                           "nul": "\0", "colon": ":", "at": "@", "bracket": "[", "backtick": "`",
                           "brace": "{", "delete": "\x7f"}.items():
            add(f"{name}_in_{place}", "alphabet", overlay(at, char))
    for name, at in {"first_separator": 84, "second_separator": 61}.items():
        add(f"hyphen_as_{name}", "alphabet", overlay(at, "-"), alone=False)
    add("hyphen_in_checksum", "alphabet", overlay(3, "-"))
    add("space_for_the_last_character", "alphabet", overlay(1, " "))

    # More than one byte to a character, in the places where a parser cuts (all other bytes in place).
    two_bytes = {"first_in_prefix": 90, "last_in_prefix": 86, "first_in_id": 83, "inside_id": 70,
                 "last_in_id": 63, "first_in_secret": 60, "inside_secret": 30, "last_in_secret": 8}
    for place, at in two_bytes.items():
        add(f"two_byte_character_{place}", "alphabet", overlay(at, "\u00e9"))
    across = {"prefix_and_separator": 85, "separator_and_id": 84, "id_and_separator": 62,
              "separator_and_secret": 61}
    for place, at in across.items():
        add(f"two_byte_character_across_{place}", "alphabet", overlay(at, "\u00e9"), alone=False)
    add("two_byte_character_across_secret_and_checksum", "alphabet", overlay(7, "\u00e9"))
    add("two_byte_character_first_in_checksum", "alphabet", overlay(6, "\u00e9"))
    add("two_byte_character_last_in_checksum", "alphabet", overlay(2, "\u00e9"))
    add("four_byte_character_across_id_separator_and_secret", "alphabet", overlay(62, "\U0001f511"), alone=False)
    add("four_byte_character_across_secret_and_checksum", "alphabet", overlay(8, "\U0001f511"))
    lookalikes = {"fullwidth_digit": "\uff11", "arabic_digit": "\u0661", "superscript_two": "\u00b2",
                  "cyrillic_a": "\u0430", "kelvin_sign": "\u212a", "long_s": "\u017f", "dotless_i": "\u0131",
                  "combining_accent": "\u0301", "zero_width_joiner": "\u200d", "four_byte_letter": "\U0001d5ba"}
    for name, char in lookalikes.items():
        add(f"{name}_in_prefix", "alphabet", overlay(89, char))
        add(f"{name}_in_id", "alphabet", overlay(75, char))
        add(f"{name}_in_secret", "alphabet", overlay(40, char))
    add("shortest_in_characters_not_in_bytes", "alphabet",
        sealed(plain[:10] + "\u00e9" + plain[11:-6]), alone=False)

    # Separators: in the last 84 bytes, `_` stands at the first and the 24th and nowhere else.
    add("digit_as_first_separator", "separator", overlay(84, "0"))
    add("digit_as_second_separator", "separator", overlay(61, "0"))
    add("underscore_in_id", "separator", overlay(72, "_"))
    add("underscore_in_secret", "separator", overlay(33, "_"))
    add("underscore_in_checksum", "separator", overlay(3, "_"))
    add("second_separator_doubled", "separator", sealed(f"ic_key_{digits}__{secret}"), alone=False)
    add("second_separator_missing", "separator", sealed(f"ic_key_{digits}{secret}"))
    add("both_separators_missing", "separator", sealed(f"ickey{digits}{secret}"), alone=False)
    add("no_separator_at_all", "separator", sealed("k" + "0" * 83))
    add("only_separators", "separator", "_" * 90, alone=False)
    add("id_and_secret_swapped", "separator", sealed(f"ic_key_{secret}_{digits}"))
    add("id_of_21", "separator", sealed(f"ic_key_{digits[1:]}_{secret}"))
    add("id_of_23", "separator", sealed(f"ic_key_0{digits}_{secret}"), alone=False)
    add("secret_of_53", "separator", sealed(f"ic_key_{digits}_{secret[1:]}"))
    add("secret_of_55", "separator", sealed(f"ic_key_{digits}_0{secret}"), alone=False)
    add("without_its_last_character", "separator", key[:-1], alone=False)
    add("with_one_more_character", "separator", key + "0", alone=False)

    # Prefix: a-z 0-9 _, begins with a letter, ends without an underscore. Tag and checksum are right.
    for name, prefix in {"upper_case": "IC_KEY", "first_letter_upper_case": "Kc", "last_letter_upper_case": "kC",
                         "begins_with_a_digit": "1c", "begins_with_an_underscore": "_kc",
                         "ends_with_an_underscore": "kc_", "two_underscores": "__", "two_digits": "42",
                         "longest_begins_with_a_digit": "0bcdefghijklmnopqrstuvwx",
                         "longest_ends_with_an_underscore": "abcdefghijklmnopqrstuvw_"}.items():
        add(f"prefix_{name}", "prefix", key_text(PEPPER_A, prefix, id, random))
    add("first_separator_doubled", "prefix", sealed(f"ic_key__{digits}_{secret}"))

    # Overflow. `wraps`: whoever drops the upper bits finds the right value, and a right tag with it.
    id_number, secret_number = value(digits), value(secret)

    def with_numbers(id_number, secret_number):
        return sealed(f"ic_key_{spell(id_number, 22)}_{spell(secret_number, 54)}")

    add("id_two_to_the_128", "overflow", with_numbers(2**128, secret_number))
    add("id_largest_of_22_digits", "overflow", with_numbers(62**22 - 1, secret_number))
    add("id_wraps", "overflow", with_numbers(id_number + 2**128, secret_number))
    add("id_wraps_twice", "overflow", with_numbers(id_number + 2 * 2**128, secret_number))
    add("secret_two_to_the_320", "overflow", with_numbers(id_number, 2**320))
    add("secret_largest_of_54_digits", "overflow", with_numbers(id_number, 62**54 - 1))
    add("secret_wraps", "overflow", with_numbers(id_number, secret_number + 2**320))
    add("id_and_secret_wrap", "overflow", with_numbers(id_number + 2**128, secret_number + 2**320))
    add("checksum_two_to_the_32", "overflow", body + spell(2**32, 6))
    add("checksum_largest_of_6_digits", "overflow", body + "zzzzzz")
    add("checksum_wraps", "overflow", body + spell(crc32(body) + 2**32, 6))
    add("checksum_wraps_nine_times", "overflow", body + spell(crc32(body) + 9 * 2**32, 6))

    # Checksum: all else is right.
    def wrong_crc(name, number):
        add(f"checksum_{name}", "checksum", body + spell(number, 6))

    right = crc32(body)
    wrong_crc("plus_one", right + 1)
    wrong_crc("minus_one", right - 1)
    wrong_crc("zero", 0)
    wrong_crc("all_ones", 2**32 - 1)
    wrong_crc("top_bit_flipped", right ^ 2**31)
    wrong_crc("inverted", right ^ 0xFFFFFFFF)
    wrong_crc("bytes_reversed", int.from_bytes(right.to_bytes(4, "big"), "little"))
    wrong_crc("castagnoli", crc32_bitwise(body.encode(), 0x82F63B78))
    wrong_crc("of_secret_only", crc32(secret))
    wrong_crc("of_id_and_secret_without_prefix", crc32(f"{digits}_{secret}"))
    wrong_crc("without_underscores", crc32(body.replace("_", "")))
    wrong_crc("of_decoded_bytes", zlib.crc32(b"ic_key" + id + value(secret).to_bytes(40, "big")))

    def edited(name, at, change):
        """Two digits, the first `at` from the right or as near to its right as the change has an effect."""
        spot = next(i for i in range(end - at, end) if change(key[i : i + 2]) != key[i : i + 2])
        add(name, "checksum", key[:spot] + change(key[spot : spot + 2]) + key[spot + 2 :])

    def swapped(two):
        return two[::-1]

    def case_changed(two):
        return two[0].swapcase() + two[1]

    edited("swapped_digits_in_id", 80, swapped)
    edited("swapped_digits_in_secret", 40, swapped)
    edited("swapped_digits_in_checksum", 4, swapped)
    edited("changed_case_in_id", 80, case_changed)
    edited("changed_case_in_secret", 40, case_changed)
    add("changed_prefix", "checksum", "ic_kez" + key[6:])
    add("prefix_of_two_for_prefix_of_six", "checksum", "kc" + key[6:])
    add("without_its_first_character", "checksum", key[1:])
    add("whole_text_in_lower_case", "checksum", key[:-6].lower() + key[-6:])
    add("id_of_another_key", "checksum", key[:7] + encode(fixed("other id", 16), 22) + key[-61:])
    add("whole_text_in_upper_case", "prefix", sealed(body.upper()))
    return vectors


def crc32_bitwise(data, polynomial=0xEDB88320):
    """The CRC bit by bit, as a check on zlib and for the polynomial that is often taken for this one."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (polynomial if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# ---------------------------------------------------------------------------------------------
# forged.json


def forged():
    """Well-formed, right checksum, wrong tag under the pepper that is given."""
    pepper, prefix = PEPPER_A, "ic_key"
    home = bytes([bucket("acme", "USER", ALICE)])
    id, random = home + fixed("forged/id", 15), fixed("forged/random", 32)
    other_id, other_random = home + fixed("forged/other id", 15), fixed("forged/other random", 32)
    right = tag(pepper, prefix, id, random)
    k_tag, whole = derived(pepper, "tag"), prefix.encode() + id + random
    vectors = []

    def add(name, prefix=prefix, id=id, random=random, tag=right):
        text = sealed(body_of(prefix, id, random, tag))
        assert not genuine(pepper, text), name
        vectors.append({"name": name, "pepper_hex": pepper.hex(), "text": text})

    def flipped(data, bit):
        return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")

    add("random_tag", tag=fixed("forged/tag", 8))
    add("tag_all_zero", tag=bytes(8))
    add("tag_all_ff", tag=b"\xff" * 8)
    add("tag_first_bit_flipped", tag=flipped(right, 63))
    add("tag_last_bit_flipped", tag=flipped(right, 0))
    add("tag_bytes_reversed", tag=right[::-1])
    add("tag_of_another_pepper", tag=tag(PEPPER_B, prefix, id, random))
    add("tag_of_another_key", tag=tag(pepper, prefix, other_id, other_random))
    add("prefix_changed", prefix="ic_kez")
    add("prefix_shortened", prefix="ic")
    add("prefix_lengthened", prefix="ic_key0")
    add("id_last_bit_flipped", id=flipped(id, 0))
    add("id_bucket_changed", id=flipped(id, 127))
    add("id_of_another_key", id=other_id)
    add("random_first_bit_flipped", random=flipped(random, 255))
    add("random_last_bit_flipped", random=flipped(random, 0))
    add("random_of_another_key", random=other_random)
    # What a slip in an implementation would make, and so would take.
    add("tag_from_the_end_of_the_hmac", tag=hmac256(k_tag, b"\x06" + whole)[-8:])
    add("tag_without_length", tag=hmac256(k_tag, whole)[:8])
    add("tag_with_length_in_four_bytes", tag=hmac256(k_tag, b"\0\0\0\x06" + whole)[:8])
    add("tag_with_length_in_bits", tag=hmac256(k_tag, b"\x30" + whole)[:8])
    add("tag_without_prefix", tag=hmac256(k_tag, id + random)[:8])
    add("tag_without_id", tag=hmac256(k_tag, b"\x06ic_key" + random)[:8])
    add("tag_without_random", tag=hmac256(k_tag, b"\x06ic_key" + id)[:8])
    add("tag_over_the_text", tag=hmac256(k_tag, f"{prefix}_{encode(id, 22)}_".encode() + random)[:8])
    add("tag_under_the_hash_key", tag=hmac256(derived(pepper, "hash"), b"\x06" + whole)[:8])
    add("tag_under_the_pepper_itself", tag=hmac256(pepper, b"\x06" + whole)[:8])
    add("tag_under_a_label_without_version", tag=hmac256(hmac256(pepper, b"tag"), b"\x06" + whole)[:8])
    add("tag_without_a_key", tag=hashlib.sha256(b"\x06" + whole).digest()[:8])
    return vectors


# ---------------------------------------------------------------------------------------------
# base62.json


def base62():
    vectors = []
    for width, size in (CRC, ID, SECRET):
        top = 256**size
        numbers = {0, 1, 9, 10, 35, 36, 61, 62, 63, top - 1, top - 2, top // 2, top // 2 - 1, top // 3}
        for bits in (8, 31, 32, 63, 64, 127, 128, 256):
            numbers |= {2**bits - 1, 2**bits, 2**bits + 1}
        for digits in (2, 5, 10, 11, 20, 21, 30, 40, 43, 50, 53):
            numbers |= {62**digits - 1, 62**digits}
        numbers |= {int.from_bytes(fixed(f"base62/{width}/{n}", 32) * 2, "big") % top for n in range(8)}
        for number in sorted(n for n in numbers if n < top):
            data = number.to_bytes(size, "big")
            vectors.append({"width": width, "bytes_hex": data.hex(), "digits": encode(data, width)})
        too_large = {top, top + 1, top + 61, top + top // 3, 62**width - 1, 62**width - 2, 62**width // top * top}
        too_large |= {value("z" + "0" * (width - 1)), value(encode((top - 1).to_bytes(size, "big"), width)) + 1}
        for number in sorted(n for n in too_large if n >= top):
            vectors.append({"width": width, "digits": spell(number, width), "error": "overflow"})
    return vectors


# ---------------------------------------------------------------------------------------------
# Do the vectors say what they claim? A second way to each value, where there is one.


def decode_bytewise(digits, size):
    """Base62 without large numbers: multiply and add with a carry, in bytes."""
    data = [0] * size
    for digit in digits:
        carry = DIGITS.index(digit)
        for i in reversed(range(size)):
            carry, data[i] = divmod(data[i] * 62 + carry, 256)
        if carry:
            return None
    return bytes(data)


def hmac_by_hand(key, message):
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).digest()


def verify(files):
    assert ARGON2_VERSION == 0x13 and crc32("123456789") == 0xCBF43926
    for v in files["valid.json"]:
        pepper, id, random = (bytes.fromhex(v[k]) for k in ("pepper_hex", "id_hex", "random_hex"))
        prefix, text = v["prefix"].encode(), v["text"]
        assert parse(text) == (v["prefix"], id, random, bytes.fromhex(v["tag_hex"])), v["name"]
        assert genuine(pepper, text) and id[0] == v["bucket"] and text[-83:-61] == v["id"]
        assert decode_bytewise(text[-60:-6], 40) == random + bytes.fromhex(v["tag_hex"])
        assert decode_bytewise(text[-6:], 4) == crc32_bitwise(text[:-6].encode()).to_bytes(4, "big")
        k_tag, k_hash = hmac_by_hand(pepper, b"keyclasp/v1/tag"), hmac_by_hand(pepper, b"keyclasp/v1/hash")
        assert (k_tag.hex(), k_hash.hex()) == (v["k_tag_hex"], v["k_hash_hex"])
        assert hmac_by_hand(k_tag, bytes([len(prefix)]) + prefix + id + random)[:8].hex() == v["tag_hex"]
        for a in v["argon2"]:
            secret = hmac_by_hand(k_hash, id + random)
            phc = hash_secret(secret, id, a["t"], a["m_kib"], a["p"], 32, Type.ID)
            assert verify_secret(phc, secret, Type.ID)
            assert phc.startswith(f"$argon2id$v=19$m={a['m_kib']},t={a['t']},p={a['p']}$".encode())
            digest = phc.rsplit(b"$", 1)[1]  # base64 without padding
            assert base64.b64decode(digest + b"=").hex() == a["digest_hex"]

    for v in files["forged.json"]:
        parse(v["text"])
    for v in files["base62.json"]:
        data = decode_bytewise(v["digits"], {6: 4, 22: 16, 54: 40}[v["width"]])
        assert v.get("error") == "overflow" if data is None else data.hex() == v["bytes_hex"]
    for name, vectors in files.items():
        keys = [v["digits"] if name == "base62.json" else v["name"] for v in vectors]
        assert len(keys) == len(set(keys)), f"{name}: a name twice"
        texts = [v["text"] for v in vectors if "text" in v]
        assert len(texts) == len(set(texts)), f"{name}: a text twice: " + str({t for t in texts if texts.count(t) > 1})
    assert {v["reason"] for v in files["malformed.json"]} == set(REASONS)

    # Any one character changed, dropped, doubled or swapped with the next: refused.
    for index in (0, 1):
        text = files["valid.json"][index]["text"]
        others = [chr(c) for c in range(128)] + ["\u00e9", "\uff11", "\U0001f511"]
        damaged = {text[:i] + c + text[i + 1 :] for i in range(len(text)) for c in others + ["", text[i] * 2]}
        damaged |= {text[:i] + text[i : i + 2][::-1] + text[i + 2 :] for i in range(len(text))}
        accepted = [d for d in damaged - {text} if not faults(d)]
        assert not accepted, accepted

    readme = (HERE / "README.md").read_text(encoding="utf-8")
    example = files["valid.json"][0]
    for field in ("pepper_hex", "owner_id", "id_hex", "id", "random_hex", "k_tag_hex", "tag_hex", "text",
                  "k_hash_hex", "password_hex", "pepper_check_hex"):
        assert example[field] in readme, f"README.md: the worked example lacks {field} {example[field]}"
    assert example["argon2"][0]["digest_hex"] in readme and str(example["crc"]) in readme


# ---------------------------------------------------------------------------------------------

HERE = Path(__file__).resolve().parent


def main(arguments):
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    files = {"valid.json": valid(), "malformed.json": malformed(), "forged.json": forged(), "base62.json": base62()}
    verify(files)
    stale = []
    for name, vectors in files.items():
        path, content = HERE / name, (json.dumps(vectors, indent=2, ensure_ascii=True) + "\n").encode("ascii")
        if not arguments:
            path.write_bytes(content)
        elif not path.exists() or path.read_bytes() != content:
            stale.append(name)
    if stale:
        sys.exit(f"{', '.join(stale)}: not what generate.py makes; run it, and say in the commit what changed")
    print(", ".join(f"{name} {len(vectors)}" for name, vectors in files.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
