// SPDX-License-Identifier: Apache-2.0
// An exit ends the control, wherever it is called; egress still runs.
#define HAS_EGRESS
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    action leave() {
        h.data.b = 0x10;
        exit;
    }

    table t {
        key = {
            h.data.c : exact;
        }
        actions = {
            leave;
            NoAction;
        }
        default_action = NoAction();
    }

    apply {
        s.egress_spec = 2;
        h.data.b = 1;
        if (h.data.a == 1) {
            exit;
        }
        t.apply();
        h.data.b = h.data.b + 1;
    }
}

EGRESS {
    apply {
        h.data.d = 0xee;
    }
}

#include "end.p4"
