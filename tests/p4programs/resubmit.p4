// SPDX-License-Identifier: Apache-2.0
// A packet goes through again as it arrived, with some metadata kept.
#include "begin.p4"

struct Meta {
    @field_list(1)
    bit<8> kept;
}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        if (s.instance_type == 0) {
            m.kept = h.data.a;
            h.data.b = 0xbb;
            resubmit_preserving_field_list(1);
        } else {
            h.data.c = (bit<16>)m.kept;
            h.data.d = (bit<32>)s.instance_type;
        }
    }
}

#include "end.p4"
