// SPDX-License-Identifier: Apache-2.0
// Controls in controls, applied twice with their own tables.
#include "begin.p4"

struct Meta {}

#include "data.p4"

control Step(inout bit<8> value, in bit<8> by) {
    action set(bit<8> to) {
        value = to;
    }

    table t {
        key = {
            by : exact @name("key");
        }
        actions = {
            set;
            NoAction;
        }
        default_action = NoAction();
    }

    apply {
        t.apply();
    }
}

INGRESS {
    Step() one;
    Step() two;

    apply {
        s.egress_spec = 2;
        one.apply(h.data.b, h.data.a);
        two.apply(h.data.c[7:0], h.data.b);
    }
}

#include "end.p4"
