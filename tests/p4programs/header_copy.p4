// SPDX-License-Identifier: Apache-2.0
// A header copied as a whole, with its validity, and a struct of metadata.
#include "begin.p4"

struct Meta {}

header pair_t {
    bit<8> a;
    bit<16> b;
}

header note_t {
    bit<8> note;
}

struct Both {
    pair_t one;
}

struct Headers {
    pair_t pair;
    pair_t copy;
}

PARSER {
    state start {
        packet.extract(h.pair);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.pair);
        packet.emit(h.copy);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        if (h.pair.a == 1) {
            h.copy = h.pair;
            h.pair.a = 9;
        }
        if (h.pair.a == 2) {
            h.pair = h.copy;
        }
    }
}

#include "end.p4"
