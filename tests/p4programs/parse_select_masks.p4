// SPDX-License-Identifier: Apache-2.0
// A select over two fields: masks, values, and what does not matter.
#include "begin.p4"

struct Meta {
    bit<8> path;
}

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
        packet.extract(h.pair);
        transition select(h.pair.a, h.pair.b) {
            (0x10 &&& 0xf0, 0x0001): first;
            (_, 0x8000 &&& 0x8000): second;
            (0x05, _): third;
            default: accept;
        }
    }

    state first {
        m.path = 1;
        transition accept;
    }

    state second {
        m.path = 2;
        transition accept;
    }

    state third {
        m.path = 3;
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
        h.note.setValid();
        h.note.note = m.path;
    }
}

#include "end.p4"
