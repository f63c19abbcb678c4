// SPDX-License-Identifier: Apache-2.0
//
// What happens to a packet on Tofino. Names of tables, keys, actions and parameters are those of
// p4/program/ingress.p4, which says what they are for; a test compares the two.
//
// Unlike there the bucket is looked up for each packet of a service, since a flow's cell can be
// reached but once: whatever it is to remember has to be known by then.

#ifndef FLOWFERRY_TOFINO_INGRESS
#define FLOWFERRY_TOFINO_INGRESS

control ingress(
    inout headers_t hdr,
    inout local_t local,
    in ingress_intrinsic_metadata_t intrinsic,
    in ingress_intrinsic_metadata_from_parser_t from_parser,
    inout ingress_intrinsic_metadata_for_deparser_t for_deparser,
    inout ingress_intrinsic_metadata_for_tm_t for_traffic_manager)
{
    Counter<bit<64>, bit<8>>(16, CounterType_t.PACKETS_AND_BYTES) dropped;
    DirectCounter<bit<64>>(CounterType_t.PACKETS_AND_BYTES) backend_counter;
    DirectCounter<bit<64>>(CounterType_t.PACKETS_AND_BYTES) backend_ipv6_counter;
    Hash<bit<16>>(HashAlgorithm_t.CRC16) bucket_hash;
    Hash<bit<16>>(HashAlgorithm_t.CRC16) bucket_hash_ipv6;

    // Actions no table offers are @hidden: clients have no use for them.
    //
    // The table says drop; what it means is counted where the table is applied.
    action drop() {
        for_deparser.drop_ctl = 1;
        local.decided = true;
    }

    // Counted at the end, as the chip reaches a counter from one place.
    @hidden action refuse(bit<8> reason) {
        drop();
        local.drop_reason = reason;
        local.counted = true;
    }

    @hidden action note_guard() {
        local.drop_reason = DROP_GUARD;
        local.counted = true;
        local.guarded = true;
    }

    // Why a table has said drop.
    @hidden action note(bit<8> reason) {
        local.drop_reason = reason;
        local.counted = true;
    }

    // -- guard: after a migration the source may not be dead yet, but it is not heard any more --

    table guard {
        key = {
            intrinsic.ingress_port: exact @name("ingress_port");
            hdr.ipv4.source:                exact @name("source");
        }
        actions = { drop; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    table guard_ipv6 {
        key = {
            intrinsic.ingress_port: exact @name("ingress_port");
            hdr.ipv6.source:                exact @name("source");
        }
        actions = { drop; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    // -- service: a virtual address and port, spread over backends ------------------------------

    // The bucket alone says where a packet goes, and no flow is remembered.
    action select_bucket(bit<16> service_id, bit<16> bucket_count) {
        local.served = true;
        local.service_id = service_id;
        local.bucket_count = bucket_count;
        local.bucket_port = local.source_port;
    }

    // The bucket says where a flow's first packet goes, and the others follow it.
    action select_flow(bit<16> service_id, bit<16> bucket_count) {
        local.served = true;
        local.service_id = service_id;
        local.bucket_count = bucket_count;
        local.bucket_port = local.source_port;
        local.remembered = true;
    }

    // And new flows of a client follow its last one for a while, in units of 2^21 microseconds.
    // Where nobody remembers the client its address alone chooses the bucket.
    action select_client(bit<16> service_id, bit<16> bucket_count, bit<16> client_time) {
        local.served = true;
        local.service_id = service_id;
        local.bucket_count = bucket_count;
        local.client_time = client_time;
        local.visitor_time = (bit<32>) client_time;
        local.remembered = true;
    }

    // A backend by its own address: remembered, so that its answers keep it.
    action reach_backend(bit<16> backend_id) {
        local.direct = true;
        local.backend_id = backend_id;
        local.remembered = true;
    }

    action to_backend(bit<16> backend_id) {
        local.backend_id = backend_id;
    }

    action translate(ipv4_address_t address, transport_port_t port) {
        local.destination = address;
        local.destination_port = port;
        local.translated = true;
        backend_counter.count();
    }

    action translate_ipv6(ipv6_address_t address, transport_port_t port) {
        local.destination_ipv6 = address;
        local.destination_port = port;
        local.translated = true;
        backend_ipv6_counter.count();
    }

    table service {
        key = {
            hdr.ipv4.destination:  exact @name("address");
            local.protocol:         exact @name("protocol");
            local.destination_port: exact @name("port");
        }
        actions = { select_bucket; select_flow; select_client; reach_backend; @defaultonly NoAction; }
        default_action = NoAction();
        size = 16384;
    }

    table service_ipv6 {
        key = {
            local.destination_ipv6:  exact @name("address");
            local.protocol:         exact @name("protocol");
            local.destination_port: exact @name("port");
        }
        actions = { select_bucket; select_flow; select_client; reach_backend; @defaultonly NoAction; }
        default_action = NoAction();
        size = 16384;
    }

    @hidden action keep_backend() {
        local.backend_id = local.cell_backend;
    }

    // Where flows of a service are now may be where they stay. A backend that is not listed is gone.
    action keep_flows() {
        local.kept = local.recalled;
    }

    action keep_clients() {
        local.kept = true;
    }

    table member {
        key = {
            local.service_id: exact @name("service_id");
            local.cell_backend: exact @name("backend_id");
        }
        actions = { keep_flows; keep_clients; @defaultonly NoAction; }
        default_action = NoAction();
        size = 65536;
    }

    table bucket {
        key = {
            local.service_id: exact @name("service_id");
            local.bucket:     exact @name("bucket");
        }
        actions = { to_backend; @defaultonly NoAction; }
        default_action = NoAction();
        size = 262144;
    }

    // A migration that changes the address is one MODIFY of one entry of this table.
    table backend {
        key = { local.backend_id: exact @name("backend_id"); }
        actions = { translate; @defaultonly NoAction; }
        default_action = NoAction();
        counters = backend_counter;
        size = 16384;
    }

    table backend_ipv6 {
        key = { local.backend_id: exact @name("backend_id"); }
        actions = { translate_ipv6; @defaultonly NoAction; }
        default_action = NoAction();
        counters = backend_ipv6_counter;
        size = 16384;
    }

    // Tofino does not divide: a service has a power of two of buckets, and the hash's last bits
    // choose one. It is a CRC-16, as the CRC-32 is the flow's own.
    @hidden action choose_bucket() {
        local.bucket = bucket_hash.get({
            hdr.ipv4.source,
            hdr.ipv4.destination,
            local.protocol,
            local.bucket_port,
            local.destination_port
        });
        local.bucket_count = local.bucket_count - 1;
    }

    @hidden action choose_bucket_ipv6() {
        local.bucket = bucket_hash_ipv6.get({
            local.source_ipv6,
            local.destination_ipv6,
            local.protocol,
            local.bucket_port,
            local.destination_port
        });
        local.bucket_count = local.bucket_count - 1;
    }

    @hidden action limit_bucket() {
        local.bucket = local.bucket & local.bucket_count;
    }

#include "flows.p4"
#include "cells.p4"

    // -- hold: nothing reaches the endpoint, nothing leaves it, nothing is lost -----------------

    action buffer() {
        local.held = true;
    }

    table hold_to {
        key = { local.destination: exact @name("address"); }
        actions = { buffer; drop; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    table hold_to_ipv6 {
        key = { local.destination_ipv6: exact @name("address"); }
        actions = { buffer; drop; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    table hold_from {
        key = { hdr.ipv4.source: exact @name("address"); }
        actions = { buffer; drop; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    table hold_from_ipv6 {
        key = { hdr.ipv6.source: exact @name("address"); }
        actions = { buffer; drop; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    // Two actions: both fields are in one container, and an action writes one from one source.
    @hidden action tell_reason(bit<7> reason) {
        hdr.packet_in.setValid();
        hdr.packet_in.reason = reason;
    }

    // The route's entry has been looked up beside: what it says of links is said again when the packet
    // is let go.
    @hidden action send_up() {
        hdr.packet_in.ingress_port = intrinsic.ingress_port;
        for_traffic_manager.ucast_egress_port = TOFINO_CPU_PORT;
        for_deparser.drop_ctl = 0;
        local.forwarded = false;
    }

    // -- reply: answers of a backend come from the virtual address ------------------------------
    //
    // Either from a fixed one, or from the one that the flow went to. Where that is forgotten, the
    // entry says which service an answer belongs to, and which one outside of the cluster; 0: none.

    action restore_virtual(ipv4_address_t address, transport_port_t port) {
        local.source = address;
        local.source_port = port;
        local.translated = true;
    }

    action restore_virtual_ipv6(ipv6_address_t address, transport_port_t port) {
        local.source_ipv6 = address;
        local.source_port = port;
        local.translated = true;
    }

    action restore_flow(bit<16> backend_id, bit<16> service_id, bit<16> outside_id) {
        local.backend_id = backend_id;
        local.service_id = service_id;
        local.outside_id = outside_id;
        local.answer = true;
        local.remembered = true;
    }

    table reply {
        key = {
            hdr.ipv4.source:  exact @name("address");
            local.protocol:    exact @name("protocol");
            local.source_port: exact @name("port");
        }
        actions = { restore_virtual; restore_flow; @defaultonly NoAction; }
        default_action = NoAction();
        size = 16384;
    }

    table reply_ipv6 {
        key = {
            local.source_ipv6:  exact @name("address");
            local.protocol:    exact @name("protocol");
            local.source_port: exact @name("port");
        }
        actions = { restore_virtual_ipv6; restore_flow; @defaultonly NoAction; }
        default_action = NoAction();
        size = 16384;
    }

    table virtual_address {
        key = { local.service_id: exact @name("service_id"); }
        actions = { restore_virtual; @defaultonly NoAction; }
        default_action = NoAction();
        size = 4096;
    }

    table virtual_address_ipv6 {
        key = { local.service_id: exact @name("service_id"); }
        actions = { restore_virtual_ipv6; @defaultonly NoAction; }
        default_action = NoAction();
        size = 4096;
    }

    // -- route: a router's hop, so hosts need no address of each other's link -------------------

    action forward(port_t port, mac_address_t source_mac, mac_address_t destination_mac) {
        for_traffic_manager.ucast_egress_port = port;
        hdr.ethernet.source = source_mac;
        hdr.ethernet.destination = destination_mac;
        local.forwarded = true;
    }

    // What leads out of the cluster, where pods are known by virtual addresses only.
    action forward_outside(port_t port, mac_address_t source_mac, mac_address_t destination_mac) {
        for_traffic_manager.ucast_egress_port = port;
        hdr.ethernet.source = source_mac;
        hdr.ethernet.destination = destination_mac;
        local.forwarded = true;
        local.outside = true;
    }

    table route {
        key = { local.destination: lpm @name("destination"); }
        actions = { forward; forward_outside; drop; }
        default_action = drop();
        size = 4096;
    }

    table route_ipv6 {
        key = { local.destination_ipv6: lpm @name("destination"); }
        actions = { forward; forward_outside; drop; }
        default_action = drop();
        size = 2048;
    }

    @hidden action count_hop() {
        hdr.ipv4.ttl = hdr.ipv4.ttl - 1;
    }

    @hidden action count_hop_ipv6() {
        hdr.ipv6.hop_limit = hdr.ipv6.hop_limit - 1;
    }

    // -- arp, ndp: the switch answers, nothing is flooded ---------------------------------------

    action answer(mac_address_t mac) {
        hdr.ethernet.destination = hdr.arp.sender_mac;
        hdr.ethernet.source = mac;
        ipv4_address_t asked = hdr.arp.target;
        hdr.arp.operation = ARP_REPLY;
        hdr.arp.target_mac = hdr.arp.sender_mac;
        hdr.arp.target = hdr.arp.sender;
        hdr.arp.sender_mac = mac;
        hdr.arp.sender = asked;
        for_traffic_manager.ucast_egress_port = intrinsic.ingress_port;
    }

    table arp {
        key = { hdr.arp.target: lpm @name("target"); }
        actions = { answer; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    // The solicitation itself becomes the advertisement, of the same length.
    action advertise(mac_address_t mac) {
        hdr.ethernet.destination = hdr.ethernet.source;
        hdr.ethernet.source = mac;
        hdr.ipv6.destination = hdr.ipv6.source;
        hdr.ipv6.source = hdr.neighbor.target;
        hdr.neighbor.type = NEIGHBOR_ADVERTISEMENT;
        hdr.neighbor.flags = ADVERTISEMENT_FLAGS;
        hdr.link_address.type = OPTION_TARGET_LINK;
        hdr.link_address.mac = mac;
        local.advertised = true;
        for_traffic_manager.ucast_egress_port = intrinsic.ingress_port;
    }

    table ndp {
        key = { hdr.neighbor.target: lpm @name("target"); }
        actions = { advertise; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    // -------------------------------------------------------------------------------------------

    @hidden action read_flow() {
        local.source = hdr.ipv4.source;
        local.destination = hdr.ipv4.destination;
        local.protocol = hdr.ipv4.protocol;
        local.fragmented = (bool) hdr.ipv4.more_fragments;
    }

    @hidden action read_flow_ipv6() {
        local.source_ipv6 = hdr.ipv6.source;
        local.destination_ipv6 = hdr.ipv6.destination;
        local.protocol = hdr.ipv6.next_header;
    }

    @hidden action read_fragment_ipv6() {
        local.source_ipv6 = hdr.ipv6.source;
        local.destination_ipv6 = hdr.ipv6.destination;
        local.protocol = hdr.ipv6_fragment.next_header;
        local.fragmented = true;
    }

    @hidden action read_tcp_ports() {
        local.source_port = hdr.tcp.source_port;
        local.destination_port = hdr.tcp.destination_port;
    }

    @hidden action read_udp_ports() {
        local.source_port = hdr.udp.source_port;
        local.destination_port = hdr.udp.destination_port;
    }

    @hidden action hairpin() {
        local.source = HAIRPIN;
    }

    @hidden action hairpin_ipv6() {
        local.source_ipv6 = HAIRPIN_IPV6;
    }

    // Which service's address an answer gets, 0 for none. What no cell is of belongs to the service
    // that the entry names; and what a client reaches by the backend's own address may have been
    // sent here by another switch, which has the cell and restores the address on the way back, but
    // for a client outside, to whom the way does not lead by that switch.
    @hidden action choose_outside() {
        local.service_id = local.outside_id;
    }

    @hidden action write_addresses() {
        hdr.ipv4.source = local.source;
        hdr.ipv4.destination = local.destination;
        local.rewritten = true;
    }

    @hidden action write_addresses_ipv6() {
        hdr.ipv6.source = local.source_ipv6;
        hdr.ipv6.destination = local.destination_ipv6;
        local.rewritten = true;
    }

    @hidden action write_tcp_ports() {
        hdr.tcp.source_port = local.source_port;
        hdr.tcp.destination_port = local.destination_port;
    }

    @hidden action write_udp_ports() {
        hdr.udp.source_port = local.source_port;
        hdr.udp.destination_port = local.destination_port;
    }

    @hidden action send_as_it_is(port_t port) {
        for_traffic_manager.ucast_egress_port = port;
        local.decided = true;
    }

#include "validity.p4"

    // What does not depend on each other stands side by side, not in the order of p4/program: the chip
    // has 20 stages, and each decision that waits for another one takes its own. What is refused goes
    // on through the tables, changes nothing that is remembered, and is dropped at the end.
    apply {
        if (hdr.packet_out.isValid()) {
            if (hdr.packet_out.past_hold == 0) {
                send_as_it_is(hdr.packet_out.egress_port);
            } else {
                local.past_hold = true;
            }
            hdr.packet_out.setInvalid();
        }

        read_clock();
        if (hdr.tcp.isValid() && (hdr.tcp.flags & 0x12) == 0x02) {
            local.begins = true;
        }
        if (hdr.ipv4.isValid()) {
            read_flow();
        } else if (hdr.ipv6.isValid()) {
            scope_of_source.apply();
            scope_of_destination.apply();
            if (hdr.ipv6_fragment.isValid()) {
                read_fragment_ipv6();
            } else {
                read_flow_ipv6();
            }
        }
        if (hdr.tcp.isValid()) {
            read_tcp_ports();
        } else if (hdr.udp.isValid()) {
            read_udp_ports();
        }

        if (!local.decided) {
            if (!local.past_hold) {
                if (hdr.ipv4.isValid()) {
                    if (guard.apply().hit) {
                        note_guard();
                    }
                } else if (hdr.ipv6.isValid()) {
                    if (guard_ipv6.apply().hit) {
                        note_guard();
                    }
                }
            }

            // What this program does not forward at all. Reading what the parser says has the chip
            // leave it to the program what is too short.
            if (from_parser.parser_err != PARSER_ERROR_OK && !hdr.ethernet.isValid()) {
                refuse(DROP_MALFORMED);
            } else if (hdr.arp.isValid()) {
                compare_arp();
                asks_by_arp.apply();
                if (local.refused) {
                    refuse(DROP_ARP);
                } else if (arp.apply().hit) {
                    local.decided = true;
                } else {
                    refuse(DROP_ARP);
                }
            } else if (hdr.neighbor.isValid()) {
                compare_neighbor();
                is_neighbor_itself.apply();
                asks_by_ndp.apply();
                if (local.refused) {
                    refuse(DROP_NDP);
                } else if (ndp.apply().hit) {
                    local.decided = true;
                } else {
                    refuse(DROP_NDP);
                }
            } else if (hdr.ipv4.isValid()) {
                if (hdr.ipv4.version != 4 || hdr.ipv4.header_words < 5) {
                    refuse(DROP_MALFORMED);
                } else if (hdr.ipv4.header_words > 5) {
                    refuse(DROP_OPTIONS);
                } else if (hdr.ipv4.fragment_offset == 0
                    && ((hdr.ipv4.protocol == PROTOCOL_TCP && !hdr.tcp.isValid())
                        || (hdr.ipv4.protocol == PROTOCOL_UDP && !hdr.udp.isValid())))
                {
                    refuse(DROP_MALFORMED);
                } else {
                    local.proceeds = true;
                }
            } else if (hdr.ipv6.isValid()) {
                if (hdr.ipv6.version != 6
                    || (hdr.ipv6.next_header == EXTENSION_FRAGMENT && !hdr.ipv6_fragment.isValid())
                    || ((!hdr.ipv6_fragment.isValid() || hdr.ipv6_fragment.offset == 0)
                        && ((local.protocol == PROTOCOL_TCP && !hdr.tcp.isValid())
                            || (local.protocol == PROTOCOL_UDP && !hdr.udp.isValid())))
                    || (hdr.ipv6.next_header == PROTOCOL_ICMPV6 && !hdr.icmpv6.isValid()))
                {
                    refuse(DROP_MALFORMED);
                } else if (local.from_out_of_scope || local.to_out_of_scope) {
                    refuse(DROP_SCOPE);
                } else {
                    local.proceeds = true;
                }
            } else if (hdr.ethernet.ether_type != ETHERTYPE_IPV4
                && hdr.ethernet.ether_type != ETHERTYPE_IPV6
                && hdr.ethernet.ether_type != ETHERTYPE_ARP)
            {
                refuse(DROP_ETHERTYPE);
            } else {
                refuse(DROP_MALFORMED);
            }
        }
        if (hdr.ipv4.isValid()) {
            service.apply();
        } else if (hdr.ipv6.isValid()) {
            service_ipv6.apply();
        }
        if (!local.served && !local.direct) {
            if (hdr.ipv4.isValid()) {
                reply.apply();
            } else if (hdr.ipv6.isValid()) {
                reply_ipv6.apply();
            }
        }

        if (local.served && local.bucket_count != 0) {
            if (hdr.ipv4.isValid()) {
                choose_bucket();
            } else {
                choose_bucket_ipv6();
            }
            limit_bucket();
            bucket.apply();
        }

        if (local.client_time != 0) {
            scale_visitor_time();
            date_visitor();
            if (hdr.ipv4.isValid()) {
                hash_visitor();
            } else {
                hash_visitor_ipv6();
            }
        }
        if (local.remembered) {
            if (hdr.ipv4.isValid()) {
                if (!local.answer) {
                    client_is_source();
                } else if (hdr.ipv4.destination == HAIRPIN) {
                    client_is_itself();
                } else {
                    client_is_destination();
                }
                hash_flow();
            } else {
                if (!local.answer) {
                    client_is_source_ipv6();
                } else {
                    is_for_hairpin_ipv6.apply();
                }
                hash_flow_ipv6();
            }
        }

        if (local.remembered && local.proceeds && !local.guarded) {
            // Where a client's new flow goes follows its last one.
            if (local.client_time != 0 && local.begins) {
                hear();
                visitor_cell.apply();
                visitor_backend.apply();
            }

            flow_cell.apply();
            cell_owner.apply();
            flow_service.apply();
            flow_backend.apply();
            if (local.own && local.served && local.cell_service == local.service_id) {
                local.recalled = true;
            }
            if (local.answer && local.own && local.cell_backend == local.backend_id) {
                local.service_id = local.cell_service;
                local.recalled = true;
            }
            if (local.served && (local.recalled || local.returning)) {
                member.apply();
                if (local.kept) {
                    keep_backend();
                }
            }
        }

        if (local.served) {
            if (hdr.ipv4.isValid()) {
                backend.apply();
            } else {
                backend_ipv6.apply();
            }
        }

        if (local.proceeds && !local.guarded) {
            if (!local.past_hold) {
                if (hdr.ipv4.isValid()) {
                    if (hold_to.apply().hit) {
                        local.held_to = true;
                    } else if (hold_from.apply().hit) {
                        local.held_from = true;
                    }
                } else {
                    if (hold_to_ipv6.apply().hit) {
                        local.held_to = true;
                    } else if (hold_from_ipv6.apply().hit) {
                        local.held_from = true;
                    }
                }
            }
            if ((hdr.ipv4.isValid() && hdr.ipv4.ttl <= 1)
                || (hdr.ipv6.isValid() && hdr.ipv6.hop_limit <= 1))
            {
                local.expired = true;
            }
            if (hdr.ipv4.isValid()) {
                route.apply();
            } else {
                route_ipv6.apply();
            }

            if (local.held) {
                send_up();
                if (local.held_to) {
                    tell_reason(HELD_TO);
                } else {
                    tell_reason(HELD_FROM);
                }
            } else if (local.served && !local.translated) {
                refuse(DROP_NO_BACKEND);
            } else if (local.held_to || local.held_from) {
                refuse(DROP_HELD);
            } else if (local.expired) {
                refuse(DROP_TTL);
            } else if (!local.forwarded) {
                note(DROP_NO_ROUTE);
            } else {
                if (local.answer) {
                    if (local.outside && (!local.recalled || local.service_id == 0)) {
                        choose_outside();
                    }
                    if (hdr.ipv4.isValid()) {
                        virtual_address.apply();
                    } else {
                        virtual_address_ipv6.apply();
                    }
                } else if (local.remembered && local.served) {
                    if (hdr.ipv4.isValid()) {
                        compare_hairpin();
                        hairpins.apply();
                    } else {
                        compare_hairpin_ipv6();
                        hairpins_ipv6.apply();
                    }
                }
                if (local.translated) {
                    // Only the first fragment carries ports and checksum: translating it alone
                    // would tear the datagram apart. Behind options neither is known.
                    if (local.fragmented) {
                        refuse(DROP_FRAGMENT);
                    } else if (local.extended) {
                        refuse(DROP_OPTIONS);
                    } else {
                        if (hdr.ipv4.isValid()) {
                            write_addresses();
                        } else {
                            write_addresses_ipv6();
                        }
                        if (hdr.tcp.isValid()) {
                            write_tcp_ports();
                        } else if (hdr.udp.isValid()) {
                            write_udp_ports();
                        }
                    }
                }
                if (hdr.ipv4.isValid()) {
                    count_hop();
                } else {
                    count_hop_ipv6();
                }
            }
        }
        if (local.counted) {
            dropped.count(local.drop_reason);
        }
        for_traffic_manager.bypass_egress = 1;
    }
}

#endif
