// SPDX-License-Identifier: Apache-2.0
//
// Which packets are what they seem, on Tofino: a part of the control `ingress`. What software
// switches compare one after the other are entries of ternary tables here, since a condition of the
// chip compares few bits; they are the program's own, and clients have no use for them.

// Of whole addresses the chip compares differences with zero.
@hidden action compare_arp() {
    local.difference = hdr.arp.sender ^ hdr.arp.target;
}

@hidden action compare_neighbor() {
    local.difference_ipv6 = hdr.ipv6.source ^ hdr.neighbor.target;
}

@hidden action compare_hairpin() {
    local.difference = local.destination ^ hdr.ipv4.source;
}

@hidden action compare_hairpin_ipv6() {
    local.difference_ipv6 = local.destination_ipv6 ^ local.source_ipv6;
}

@hidden action refuse_it() {
    local.refused = true;
}

@hidden action accept_it() { }

// Whoever announces or probes an address asks about himself: an answer would tell him that somebody
// else has it.
@hidden table asks_by_arp {
    key = {
        local.past_hold         : exact;
        hdr.arp.operation       : exact;
        hdr.arp.hardware_type   : exact;
        hdr.arp.protocol_type   : exact;
        hdr.arp.hardware_length : exact;
        hdr.arp.protocol_length : exact;
        hdr.arp.sender          : ternary;
        local.difference        : ternary;
    }
    actions = { accept_it; refuse_it; }
    const default_action = refuse_it();
    const entries = {
        (false, ARP_REQUEST, ARP_HARDWARE_ETHERNET, ETHERTYPE_IPV4, 6, 4, 0, _) : refuse_it();
        (false, ARP_REQUEST, ARP_HARDWARE_ETHERNET, ETHERTYPE_IPV4, 6, 4, _, 0) : refuse_it();
        (false, ARP_REQUEST, ARP_HARDWARE_ETHERNET, ETHERTYPE_IPV4, 6, 4, _, _) : accept_it();
    }
    size = 4;
}

// Without a sender it is a probe for a duplicate; with another hop limit than 255 it comes from
// another link. Other options than the link's address are not known.
@hidden table asks_by_ndp {
    key = {
        local.past_hold            : exact;
        hdr.ipv6.hop_limit         : exact;
        hdr.neighbor.code          : exact;
        local.no_source            : exact;
        local.is_same              : exact;
        hdr.link_address.isValid() : exact;
        hdr.link_address.type      : ternary;
        hdr.link_address.length    : ternary;
        hdr.ipv6.payload_length    : ternary;
    }
    actions = { accept_it; refuse_it; }
    const default_action = refuse_it();
    const entries = {
        (false, 255, 0, false, false, true, OPTION_SOURCE_LINK, 1, _) : accept_it();
        (false, 255, 0, false, false, false, _, _, 24)                : accept_it();
    }
    size = 2;
}

@hidden action is_out_of_scope() {
    local.from_out_of_scope = true;
}

@hidden action is_unspecified() {
    local.no_source = true;
    local.from_out_of_scope = true;
}

@hidden action leads_out_of_scope() {
    local.to_out_of_scope = true;
}

@hidden table scope_of_source {
    key = { hdr.ipv6.source : ternary; }
    actions = { is_unspecified; is_out_of_scope; @defaultonly NoAction; }
    const default_action = NoAction();
    const entries = {
        0 : is_unspecified();
        0xfe800000000000000000000000000000 &&& 0xffc00000000000000000000000000000 : is_out_of_scope();
        0xff000000000000000000000000000000 &&& 0xff000000000000000000000000000000 : is_out_of_scope();
    }
    size = 4;
}

@hidden table scope_of_destination {
    key = { hdr.ipv6.destination : ternary; }
    actions = { leads_out_of_scope; @defaultonly NoAction; }
    const default_action = NoAction();
    const entries = {
        0xfe800000000000000000000000000000 &&& 0xffc00000000000000000000000000000 : leads_out_of_scope();
        0xff000000000000000000000000000000 &&& 0xff000000000000000000000000000000 : leads_out_of_scope();
    }
    size = 4;
}

@hidden action mark_same() {
    local.is_same = true;
}

@hidden table is_neighbor_itself {
    key = { local.difference_ipv6 : exact; }
    actions = { mark_same; @defaultonly NoAction; }
    const default_action = NoAction();
    const entries = { 0 : mark_same(); }
    size = 1;
}

@hidden table is_for_hairpin_ipv6 {
    key = { local.destination_ipv6 : exact; }
    actions = { client_is_itself_ipv6; client_is_destination_ipv6; }
    const default_action = client_is_destination_ipv6();
    const entries = { HAIRPIN_IPV6 : client_is_itself_ipv6(); }
    size = 1;
}

@hidden table hairpins {
    key = { local.difference : exact; }
    actions = { hairpin; @defaultonly NoAction; }
    const default_action = NoAction();
    const entries = { 0 : hairpin(); }
    size = 1;
}

@hidden table hairpins_ipv6 {
    key = { local.difference_ipv6 : exact; }
    actions = { hairpin_ipv6; @defaultonly NoAction; }
    const default_action = NoAction();
    const entries = { 0 : hairpin_ipv6(); }
    size = 1;
}
