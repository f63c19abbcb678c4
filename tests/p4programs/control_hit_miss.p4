// SPDX-License-Identifier: Apache-2.0
// What to do depends on hit or miss, also when both take the same action.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    action nothing() {
    }

    table t {
        key = {
            h.data.a : exact;
        }
        actions = {
            nothing;
        }
        default_action = nothing();
    }

    table u {
        key = {
            h.data.b : exact;
        }
        actions = {
            nothing;
        }
        default_action = nothing();
    }

    apply {
        s.egress_spec = 2;
        if (t.apply().hit) {
            h.data.c = 1;
        } else {
            h.data.c = 2;
        }
        if (u.apply().miss) {
            h.data.d = 3;
        }
    }
}

#include "end.p4"
