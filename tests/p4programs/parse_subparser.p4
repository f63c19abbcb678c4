// SPDX-License-Identifier: Apache-2.0
// A parser that calls another one, twice.
#include "begin.p4"

struct Meta {}

header kind_t {
    bit<8> kind;
}

header note_t {
    bit<8> note;
}

parser Note(packet_in packet, out note_t note) {
    state start {
        packet.extract(note);
        transition select(note.note) {
            0: again;
            default: accept;
        }
    }

    state again {
        packet.extract(note);
        transition accept;
    }
}

struct Headers {
    kind_t kind;
    note_t first;
    note_t second;
}

PARSER {
    Note() note;

    state start {
        packet.extract(h.kind);
        note.apply(packet, h.first);
        note.apply(packet, h.second);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.kind);
        packet.emit(h.first);
        packet.emit(h.second);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        h.first.note = h.first.note + h.second.note;
    }
}

#include "end.p4"
