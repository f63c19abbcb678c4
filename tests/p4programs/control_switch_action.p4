// SPDX-License-Identifier: Apache-2.0
// A switch on the action that a table took, with a default and a case for two.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    action first() {
    }

    action second() {
    }

    action third() {
    }

    action other() {
    }

    table t {
        key = {
            h.data.a : exact;
        }
        actions = {
            first;
            second;
            third;
            other;
        }
        default_action = other();
    }

    apply {
        s.egress_spec = 2;
        switch (t.apply().action_run) {
            first: {
                h.data.c = 1;
            }
            second:
            third: {
                h.data.c = 2;
            }
            default: {
                h.data.c = 3;
            }
        }
    }
}

#include "end.p4"
