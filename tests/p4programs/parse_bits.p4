// SPDX-License-Identifier: Apache-2.0
// Fields that begin and end inside of bytes.
#include "begin.p4"

struct Meta {}

header bits_t {
    bit<1> a;
    bit<3> b;
    bit<12> c;
    bit<33> d;
    bit<7> e;
}

struct Headers {
    bits_t bits;
}

PARSER {
    state start {
        packet.extract(h.bits);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.bits);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        h.bits.a = 1;
        h.bits.b = h.bits.b + 1;
        h.bits.c = ~h.bits.c;
        h.bits.d = h.bits.d + 1;
        h.bits.e = h.bits.e ^ 0x7f;
    }
}

#include "end.p4"
