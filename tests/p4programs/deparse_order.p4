// SPDX-License-Identifier: Apache-2.0
// Headers leave in the order of the deparser, not of the parser.
#include "begin.p4"

struct Meta {}

header pair_t {
    bit<8> a;
    bit<16> b;
}

header note_t {
    bit<8> note;
}

struct Headers {
    pair_t pair;
    note_t note;
}

PARSER {
    state start {
        packet.extract(h.note);
        packet.extract(h.pair);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.pair);
        packet.emit(h.note);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
    }
}

#include "end.p4"
