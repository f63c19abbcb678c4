// SPDX-License-Identifier: Apache-2.0
// Conditions in an action, and parameters with and without direction.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    action pick(inout bit<8> target, bit<8> low, bit<16> high) {
        if (h.data.a > 0x7f) {
            target = low;
            if (h.data.d == 0) {
                h.data.c = high;
            } else {
                h.data.c = high + 1;
            }
        } else {
            target = ~low;
        }
    }

    table t {
        key = {
            h.data.a : ternary;
        }
        actions = {
            pick(h.data.b);
            NoAction;
        }
        default_action = NoAction();
    }

    apply {
        s.egress_spec = 2;
        t.apply();
    }
}

#include "end.p4"
