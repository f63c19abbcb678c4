// SPDX-License-Identifier: Apache-2.0
// A loop that fills a header stack until an element says that it is the last.
#include "begin.p4"

struct Meta {}

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
        h.note.note = 0;
        if (h.tags[1].isValid()) {
            h.note.note = 1;
            h.tags[1].value = 0xbbb;
        }
        if (h.tags[2].isValid()) {
            h.note.note = 2;
        }
    }
}

#include "end.p4"
