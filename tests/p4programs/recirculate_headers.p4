// SPDX-License-Identifier: Apache-2.0
// A recirculated packet is parsed as it left: with headers more.
#define HAS_EGRESS
#include "begin.p4"

struct Meta {
    @field_list(1)
    bit<8> done;
}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        if (s.instance_type == 4) {
            h.data.c = 0xcccc;
        }
    }
}

EGRESS {
    apply {
        if (s.instance_type == 0 && h.data.a == 1 && m.done == 0) {
            h.data.setInvalid();
            recirculate_preserving_field_list(1);
        }
    }
}

#include "end.p4"
