// SPDX-License-Identifier: Apache-2.0
// Bytes that are passed over are gone.
#include "begin.p4"

struct Meta {
    bit<8> path;
}

header kind_t {
    bit<8> kind;
}

header note_t {
    bit<8> note;
}

struct Headers {
    kind_t kind;
    note_t note;
}

PARSER {
    state start {
        packet.extract(h.kind);
        transition select(h.kind.kind) {
            1: skip;
            2: skip_some;
            default: accept;
        }
    }

    state skip {
        packet.advance(16);
        transition rest;
    }

    state skip_some {
        packet.advance((bit<32>)packet.lookahead<bit<8>>() << 3);
        transition rest;
    }

    state rest {
        packet.extract(h.note);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.kind);
        packet.emit(h.note);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
    }
}

#include "end.p4"
