// SPDX-License-Identifier: Apache-2.0
// A packet goes through again as it departed, until it has been there often enough.
#define HAS_EGRESS
#include "begin.p4"

struct Meta {
    @field_list(1)
    bit<8> rounds;
}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        m.rounds = m.rounds + 1;
    }
}

EGRESS {
    apply {
        h.data.b = m.rounds;
        if (m.rounds < 5) {
            h.data.c = h.data.c + 1;
            recirculate_preserving_field_list(1);
        }
    }
}

#include "end.p4"
