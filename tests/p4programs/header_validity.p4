// SPDX-License-Identifier: Apache-2.0
// Headers added, removed, and asked for; an added one begins at zero.
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
    note_t note;
    pair_t pair;
}

PARSER {
    state start {
        packet.extract(h.pair);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.note);
        packet.emit(h.pair);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        if (h.note.isValid()) {
            h.pair.b = 0xffff;
        }
        if (h.pair.a == 1) {
            h.note.setValid();
            h.note.note = h.note.note | 0x80;
        }
        if (h.pair.a == 2) {
            h.pair.setInvalid();
        }
    }
}

#include "end.p4"
