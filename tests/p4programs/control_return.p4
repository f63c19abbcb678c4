// SPDX-License-Identifier: Apache-2.0
// A return ends the control or the action that it is in.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    action change() {
        if (h.data.a == 0) {
            return;
        }
        h.data.c = 0xffff;
    }

    apply {
        s.egress_spec = 2;
        change();
        if (h.data.b == 1) {
            return;
        }
        h.data.d = 7;
    }
}

#include "end.p4"
