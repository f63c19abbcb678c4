// SPDX-License-Identifier: Apache-2.0
// The last element and its index, in the parser.
#include "begin.p4"

struct Meta {
    bit<8> index;
    bit<12> value;
}

header tag_t {
    bit<4> last;
    bit<12> value;
}

header note_t {
    bit<8> note;
}

struct Headers {
    note_t note;
    tag_t[3] tags;
}

PARSER {
    state start {
        packet.extract(h.tags.next);
        m.index = (bit<8>)h.tags.lastIndex;
        m.value = h.tags.last.value;
        transition select(h.tags.last.last) {
            0: start;
            default: accept;
        }
    }
}

DEPARSER {
    apply {
        packet.emit(h.note);
        packet.emit(h.tags);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        h.note.setValid();
        h.note.note = m.index;
        h.tags[0].value = m.value;
    }
}

#include "end.p4"
