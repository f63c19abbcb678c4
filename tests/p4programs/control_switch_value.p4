// SPDX-License-Identifier: Apache-2.0
// A switch on a value.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        switch (h.data.a) {
            1: {
                h.data.c = 0x11;
            }
            2: {
                h.data.c = 0x22;
            }
            default: {
                h.data.c = 0x33;
            }
        }
    }
}

#include "end.p4"
