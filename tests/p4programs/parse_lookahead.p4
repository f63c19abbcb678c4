// SPDX-License-Identifier: Apache-2.0
// A look at what comes, as a key and as a value.
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

header long_t {
    bit<8> a;
    bit<32> c;
}

struct Headers {
    pair_t pair;
    long_t long;
    note_t note;
}

PARSER {
    state start {
        m.path = packet.lookahead<bit<8>>();
        transition select(packet.lookahead<bit<12>>()) {
            0x123: short;
            default: long;
        }
    }

    state short {
        packet.extract(h.pair);
        transition accept;
    }

    state long {
        packet.extract(h.long);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.pair);
        packet.emit(h.long);
        packet.emit(h.note);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        h.note.setValid();
        h.note.note = m.path;
        if (h.pair.isValid()) {
            h.pair.a = 0xaa;
        } else {
            h.long.a = 0xbb;
        }
    }
}

#include "end.p4"
