// SPDX-License-Identifier: Apache-2.0
//
// What happens to a packet. Names of tables, keys, actions and parameters are the interface of the
// project: clients find them in the compiled p4info.
//
// Order: guard; service, member, bucket, backend (where would it go?), or reply (whose answer is
// it?); hold_to, hold_from (may it?); route; virtual_address (where does it seem to come from?); only
// then the headers change.
//
// A table whose key or parameters are IPv4 addresses has a twin with the suffix _ipv6. Actions
// that name no address are the same in both. `bucket` names no address: it serves both.

#ifndef FLOWFERRY_INGRESS
#define FLOWFERRY_INGRESS

#include "headers.p4"

control ingress(
    inout headers_t hdr,
    inout metadata_t meta,
    inout standard_metadata_t standard_metadata)
{
    counter<bit<32>>(DROP_REASONS, CounterType.packets_and_bytes) dropped;
    direct_counter(CounterType.packets_and_bytes) backend_counter;
    direct_counter(CounterType.packets_and_bytes) hold_to_counter;
    direct_counter(CounterType.packets_and_bytes) hold_from_counter;
    direct_counter(CounterType.packets_and_bytes) route_counter;
    direct_counter(CounterType.packets_and_bytes) backend_ipv6_counter;
    direct_counter(CounterType.packets_and_bytes) hold_to_ipv6_counter;
    direct_counter(CounterType.packets_and_bytes) hold_from_ipv6_counter;
    direct_counter(CounterType.packets_and_bytes) route_ipv6_counter;

    // Actions no table offers are @hidden: clients have no use for them.
    //
    // The table says drop; what it means is counted where the table is applied.
    action drop() {
        mark_to_drop(standard_metadata);
        meta.decided = true;
    }

    @hidden action refuse(bit<8> reason) {
        drop();
        dropped.count((bit<32>) reason);
    }

    // -- guard: after a migration the source may not be dead yet, but it is not heard any more --

    table guard {
        key = {
            standard_metadata.ingress_port: exact @name("ingress_port");
            hdr.ipv4.source:                exact @name("source");
        }
        actions = { drop; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    table guard_ipv6 {
        key = {
            standard_metadata.ingress_port: exact @name("ingress_port");
            hdr.ipv6.source:                exact @name("source");
        }
        actions = { drop; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    // -- service: a virtual address and port, spread over backends ------------------------------

    // The bucket alone says where a packet goes, and no flow is remembered.
    action select_bucket(bit<16> service_id, bit<16> bucket_count) {
        meta.served = true;
        meta.service_id = service_id;
        meta.bucket_count = bucket_count;
        meta.bucket_port = meta.source_port;
    }

    // The bucket says where a flow's first packet goes, and the others follow it.
    action select_flow(bit<16> service_id, bit<16> bucket_count) {
        meta.served = true;
        meta.service_id = service_id;
        meta.bucket_count = bucket_count;
        meta.bucket_port = meta.source_port;
        meta.remembered = true;
    }

    // And new flows of a client follow its last one for a while, in units of 2^21 microseconds.
    // Where nobody remembers the client its address alone chooses the bucket.
    action select_client(bit<16> service_id, bit<16> bucket_count, bit<16> client_time) {
        meta.served = true;
        meta.service_id = service_id;
        meta.bucket_count = bucket_count;
        meta.client_time = client_time;
        meta.remembered = true;
    }

    // A backend by its own address: remembered, so that its answers keep it.
    action reach_backend(bit<16> backend_id) {
        meta.direct = true;
        meta.backend_id = backend_id;
        meta.remembered = true;
    }

    action to_backend(bit<16> backend_id) {
        meta.backend_id = backend_id;
    }

    action translate(ipv4_address_t address, transport_port_t port) {
        meta.destination = address;
        meta.destination_port = port;
        meta.translated = true;
    }

    action translate_ipv6(ipv6_address_t address, transport_port_t port) {
        meta.destination_ipv6 = address;
        meta.destination_port = port;
        meta.translated = true;
    }

    table service {
        key = {
            hdr.ipv4.destination:  exact @name("address");
            meta.protocol:         exact @name("protocol");
            meta.destination_port: exact @name("port");
        }
        actions = { select_bucket; select_flow; select_client; reach_backend; @defaultonly NoAction; }
        default_action = NoAction();
        size = 16384;
    }

    table service_ipv6 {
        key = {
            hdr.ipv6.destination:  exact @name("address");
            meta.protocol:         exact @name("protocol");
            meta.destination_port: exact @name("port");
        }
        actions = { select_bucket; select_flow; select_client; reach_backend; @defaultonly NoAction; }
        default_action = NoAction();
        size = 16384;
    }

    // Where flows of a service are now may be where they stay. A backend that is not listed is gone.
    action keep_flows() {
        meta.kept = meta.recalled;
    }

    action keep_clients() {
        meta.kept = true;
    }

    table member {
        key = {
            meta.service_id: exact @name("service_id");
            meta.backend_id: exact @name("backend_id");
        }
        actions = { keep_flows; keep_clients; @defaultonly NoAction; }
        default_action = NoAction();
        size = 65536;
    }

    table bucket {
        key = {
            meta.service_id: exact @name("service_id");
            meta.bucket:     exact @name("bucket");
        }
        actions = { to_backend; @defaultonly NoAction; }
        default_action = NoAction();
        size = 262144;
    }

    // A migration that changes the address is one MODIFY of one entry of this table.
    table backend {
        key = { meta.backend_id: exact @name("backend_id"); }
        actions = { translate; @defaultonly NoAction; }
        default_action = NoAction();
        counters = backend_counter;
        size = 16384;
    }

    table backend_ipv6 {
        key = { meta.backend_id: exact @name("backend_id"); }
        actions = { translate_ipv6; @defaultonly NoAction; }
        default_action = NoAction();
        counters = backend_ipv6_counter;
        size = 16384;
    }

    // A flow stays on its bucket because the bucket depends on nothing but the flow: the CRC-32 of
    // source, destination, protocol and both ports, as on the wire, modulo the number of buckets.
    // Where clients are kept together it is 0 instead of the client's port.
    @hidden action choose_bucket() {
        hash(
            meta.bucket,
            HashAlgorithm.crc32,
            16w0,
            {
                hdr.ipv4.source,
                hdr.ipv4.destination,
                meta.protocol,
                meta.bucket_port,
                meta.destination_port
            },
            meta.bucket_count);
    }

    @hidden action choose_bucket_ipv6() {
        hash(
            meta.bucket,
            HashAlgorithm.crc32,
            16w0,
            {
                hdr.ipv6.source,
                hdr.ipv6.destination,
                meta.protocol,
                meta.bucket_port,
                meta.destination_port
            },
            meta.bucket_count);
    }

#include "flows.p4"

    // -- hold: nothing reaches the endpoint, nothing leaves it, nothing is lost -----------------

    action buffer() {
        meta.held = true;
    }

    table hold_to {
        key = { meta.destination: exact @name("address"); }
        actions = { buffer; drop; @defaultonly NoAction; }
        default_action = NoAction();
        counters = hold_to_counter;
        size = 1024;
    }

    table hold_to_ipv6 {
        key = { meta.destination_ipv6: exact @name("address"); }
        actions = { buffer; drop; @defaultonly NoAction; }
        default_action = NoAction();
        counters = hold_to_ipv6_counter;
        size = 1024;
    }

    table hold_from {
        key = { hdr.ipv4.source: exact @name("address"); }
        actions = { buffer; drop; @defaultonly NoAction; }
        default_action = NoAction();
        counters = hold_from_counter;
        size = 1024;
    }

    table hold_from_ipv6 {
        key = { hdr.ipv6.source: exact @name("address"); }
        actions = { buffer; drop; @defaultonly NoAction; }
        default_action = NoAction();
        counters = hold_from_ipv6_counter;
        size = 1024;
    }

    @hidden action send_up(bit<7> reason) {
        hdr.packet_in.setValid();
        hdr.packet_in.ingress_port = standard_metadata.ingress_port;
        hdr.packet_in.reason = reason;
        standard_metadata.egress_spec = CPU_PORT;
        meta.decided = true;
    }

    // -- reply: answers of a backend come from the virtual address ------------------------------
    //
    // Either from a fixed one, or from the one that the flow went to. Where that is forgotten, the
    // entry says which service an answer belongs to, and which one outside of the cluster; 0: none.

    action restore_virtual(ipv4_address_t address, transport_port_t port) {
        meta.source = address;
        meta.source_port = port;
        meta.translated = true;
    }

    action restore_virtual_ipv6(ipv6_address_t address, transport_port_t port) {
        meta.source_ipv6 = address;
        meta.source_port = port;
        meta.translated = true;
    }

    action restore_flow(bit<16> backend_id, bit<16> service_id, bit<16> outside_id) {
        meta.backend_id = backend_id;
        meta.service_id = service_id;
        meta.outside_id = outside_id;
        meta.answer = true;
        meta.remembered = true;
    }

    table reply {
        key = {
            hdr.ipv4.source:  exact @name("address");
            meta.protocol:    exact @name("protocol");
            meta.source_port: exact @name("port");
        }
        actions = { restore_virtual; restore_flow; @defaultonly NoAction; }
        default_action = NoAction();
        size = 16384;
    }

    table reply_ipv6 {
        key = {
            hdr.ipv6.source:  exact @name("address");
            meta.protocol:    exact @name("protocol");
            meta.source_port: exact @name("port");
        }
        actions = { restore_virtual_ipv6; restore_flow; @defaultonly NoAction; }
        default_action = NoAction();
        size = 16384;
    }

    table virtual_address {
        key = { meta.service_id: exact @name("service_id"); }
        actions = { restore_virtual; @defaultonly NoAction; }
        default_action = NoAction();
        size = 4096;
    }

    table virtual_address_ipv6 {
        key = { meta.service_id: exact @name("service_id"); }
        actions = { restore_virtual_ipv6; @defaultonly NoAction; }
        default_action = NoAction();
        size = 4096;
    }

    // -- route: a router's hop, so hosts need no address of each other's link -------------------

    action forward(port_t port, mac_address_t source_mac, mac_address_t destination_mac) {
        standard_metadata.egress_spec = port;
        hdr.ethernet.source = source_mac;
        hdr.ethernet.destination = destination_mac;
        meta.forwarded = true;
    }

    // What leads out of the cluster, where pods are known by virtual addresses only.
    action forward_outside(port_t port, mac_address_t source_mac, mac_address_t destination_mac) {
        standard_metadata.egress_spec = port;
        hdr.ethernet.source = source_mac;
        hdr.ethernet.destination = destination_mac;
        meta.forwarded = true;
        meta.outside = true;
    }

    table route {
        key = { meta.destination: lpm @name("destination"); }
        actions = { forward; forward_outside; drop; }
        default_action = drop();
        counters = route_counter;
        size = 16384;
    }

    table route_ipv6 {
        key = { meta.destination_ipv6: lpm @name("destination"); }
        actions = { forward; forward_outside; drop; }
        default_action = drop();
        counters = route_ipv6_counter;
        size = 16384;
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
        standard_metadata.egress_spec = standard_metadata.ingress_port;
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
        meta.advertised = true;
        standard_metadata.egress_spec = standard_metadata.ingress_port;
    }

    table ndp {
        key = { hdr.neighbor.target: lpm @name("target"); }
        actions = { advertise; @defaultonly NoAction; }
        default_action = NoAction();
        size = 1024;
    }

    // -------------------------------------------------------------------------------------------

    @hidden action read_flow() {
        meta.source = hdr.ipv4.source;
        meta.destination = hdr.ipv4.destination;
        meta.protocol = hdr.ipv4.protocol;
        meta.tcp_length = hdr.ipv4.total_length - 20;
        meta.fragmented = hdr.ipv4.more_fragments == 1;
    }

    @hidden action read_flow_ipv6() {
        meta.source_ipv6 = hdr.ipv6.source;
        meta.destination_ipv6 = hdr.ipv6.destination;
        meta.protocol = hdr.ipv6.next_header;
        meta.tcp_length = hdr.ipv6.payload_length;
    }

    @hidden action read_ipv6_fragment() {
        meta.protocol = hdr.ipv6_fragment.next_header;
        meta.fragmented = true;
    }

    @hidden action read_tcp_ports() {
        meta.source_port = hdr.tcp.source_port;
        meta.destination_port = hdr.tcp.destination_port;
    }

    @hidden action read_udp_ports() {
        meta.source_port = hdr.udp.source_port;
        meta.destination_port = hdr.udp.destination_port;
    }

    @hidden action hairpin() {
        meta.source = HAIRPIN;
    }

    @hidden action hairpin_ipv6() {
        meta.source_ipv6 = HAIRPIN_IPV6;
    }

    // Which service's address an answer gets, 0 for none. What no cell is of belongs to the service
    // that the entry names; and what a client reaches by the backend's own address may have been
    // sent here by another switch, which has the cell and restores the address on the way back, but
    // for a client outside, to whom the way does not lead by that switch.
    @hidden action choose_virtual() {
        if (meta.outside && (!meta.known || meta.service_id == 0)) {
            meta.service_id = meta.outside_id;
        }
    }

    @hidden action write_addresses() {
        hdr.ipv4.source = meta.source;
        hdr.ipv4.destination = meta.destination;
        meta.rewritten = true;
    }

    @hidden action write_addresses_ipv6() {
        hdr.ipv6.source = meta.source_ipv6;
        hdr.ipv6.destination = meta.destination_ipv6;
        meta.rewritten = true;
    }

    @hidden action write_tcp_ports() {
        hdr.tcp.source_port = meta.source_port;
        hdr.tcp.destination_port = meta.destination_port;
    }

    @hidden action write_udp_ports() {
        hdr.udp.source_port = meta.source_port;
        hdr.udp.destination_port = meta.destination_port;
    }

    @hidden action send_as_it_is(port_t port) {
        standard_metadata.egress_spec = port;
        meta.decided = true;
    }

    apply {
        if (hdr.packet_out.isValid()) {
            if (hdr.packet_out.past_hold == 0) {
                send_as_it_is(hdr.packet_out.egress_port);
            } else {
                meta.past_hold = true;
            }
            hdr.packet_out.setInvalid();
        }

        // What this program does not forward at all.
        if (!meta.decided) {
            if (hdr.arp.isValid()) {
                // Whoever announces or probes an address asks about himself: an answer would tell
                // him that somebody else has it.
                if (meta.past_hold
                    || hdr.arp.operation != ARP_REQUEST
                    || hdr.arp.hardware_type != ARP_HARDWARE_ETHERNET
                    || hdr.arp.protocol_type != ETHERTYPE_IPV4
                    || hdr.arp.hardware_length != 6
                    || hdr.arp.protocol_length != 4
                    || hdr.arp.sender == 0
                    || hdr.arp.sender == hdr.arp.target)
                {
                    refuse(DROP_ARP);
                } else if (!arp.apply().hit) {
                    refuse(DROP_ARP);
                }
                meta.decided = true;
            } else if (hdr.neighbor.isValid()) {
                // Without a sender it is a probe for a duplicate; with another hop limit than 255
                // it comes from another link. Other options than the link's address are not known.
                if (meta.past_hold
                    || hdr.ipv6.hop_limit != 255
                    || hdr.neighbor.code != 0
                    || hdr.ipv6.source == 0
                    || hdr.ipv6.source == hdr.neighbor.target
                    || (hdr.link_address.isValid()
                        && (hdr.link_address.type != OPTION_SOURCE_LINK
                            || hdr.link_address.length != 1))
                    || (!hdr.link_address.isValid() && hdr.ipv6.payload_length != 24))
                {
                    refuse(DROP_NDP);
                } else if (!ndp.apply().hit) {
                    refuse(DROP_NDP);
                }
                meta.decided = true;
            } else if (hdr.ipv4.isValid()) {
                if (hdr.ipv4.version != 4 || hdr.ipv4.header_words < 5) {
                    refuse(DROP_MALFORMED);
                } else if (hdr.ipv4.header_words > 5) {
                    refuse(DROP_OPTIONS);
                } else {
                    read_flow();
                    if (hdr.ipv4.fragment_offset == 0
                        && ((hdr.ipv4.protocol == PROTOCOL_TCP && !hdr.tcp.isValid())
                            || (hdr.ipv4.protocol == PROTOCOL_UDP && !hdr.udp.isValid())))
                    {
                        refuse(DROP_MALFORMED);
                    }
                }
            } else if (hdr.ipv6.isValid()) {
                read_flow_ipv6();
                if (hdr.ipv6_fragment.isValid()) {
                    read_ipv6_fragment();
                }
                if (hdr.ipv6.version != 6
                    || (hdr.ipv6.next_header == EXTENSION_FRAGMENT && !hdr.ipv6_fragment.isValid())
                    || ((!hdr.ipv6_fragment.isValid() || hdr.ipv6_fragment.offset == 0)
                        && ((meta.protocol == PROTOCOL_TCP && !hdr.tcp.isValid())
                            || (meta.protocol == PROTOCOL_UDP && !hdr.udp.isValid())))
                    || (hdr.ipv6.next_header == PROTOCOL_ICMPV6 && !hdr.icmpv6.isValid()))
                {
                    refuse(DROP_MALFORMED);
                } else if (hdr.ipv6.source[127:118] == LINK_LOCAL
                    || hdr.ipv6.destination[127:118] == LINK_LOCAL
                    || hdr.ipv6.source[127:120] == MULTICAST
                    || hdr.ipv6.destination[127:120] == MULTICAST
                    || hdr.ipv6.source == 0)
                {
                    refuse(DROP_SCOPE);
                }
            } else if (hdr.ethernet.isValid()
                && hdr.ethernet.ether_type != ETHERTYPE_IPV4
                && hdr.ethernet.ether_type != ETHERTYPE_IPV6
                && hdr.ethernet.ether_type != ETHERTYPE_ARP)
            {
                refuse(DROP_ETHERTYPE);
            } else {
                refuse(DROP_MALFORMED);
            }
        }

        if (!meta.decided) {
            if (hdr.tcp.isValid()) {
                read_tcp_ports();
            } else if (hdr.udp.isValid()) {
                read_udp_ports();
            }

            if (!meta.past_hold) {
                if (hdr.ipv4.isValid()) {
                    guard.apply();
                } else {
                    guard_ipv6.apply();
                }
                if (meta.decided) {
                    refuse(DROP_GUARD);
                }
            }
        }

        if (!meta.decided) {
            if (hdr.ipv4.isValid()) {
                service.apply();
            } else {
                service_ipv6.apply();
            }
            if (!meta.served && !meta.direct) {
                if (hdr.ipv4.isValid()) {
                    reply.apply();
                } else {
                    reply_ipv6.apply();
                }
            }

            if (meta.remembered) {
                read_clock();
                if (hdr.ipv4.isValid()) {
                    if (meta.answer) {
                        client_is_destination();
                    } else {
                        client_is_source();
                    }
                    hash_flow();
                } else {
                    if (meta.answer) {
                        client_is_destination_ipv6();
                    } else {
                        client_is_source_ipv6();
                    }
                    hash_flow_ipv6();
                }
                find_flow();
                if (meta.answer) {
                    if (meta.known) {
                        recall_service();
                    }
                } else if (meta.served) {
                    // The first packet of a connection chooses anew: whoever sends it again has had
                    // no answer.
                    if (meta.known
                        && ((hdr.tcp.isValid() && (hdr.tcp.flags & 0x12) != 0x02)
                            || (!hdr.tcp.isValid()
                                && meta.now - meta.cell[15:0] < DATAGRAM_IDLE)))
                    {
                        recall_backend();
                    } else if (meta.client_time != 0) {
                        if (hdr.ipv4.isValid()) {
                            hash_visitor();
                        } else {
                            hash_visitor_ipv6();
                        }
                        find_visitor();
                    }
                    if (meta.recalled || meta.returning) {
                        member.apply();
                    }
                }
            }

            if (meta.served) {
                if (meta.bucket_count == 0 && !meta.kept) {
                    refuse(DROP_NO_BACKEND);   // and nothing is divided by zero
                } else {
                    if (!meta.kept) {
                        meta.backend_id = 0;
                        if (hdr.ipv4.isValid()) {
                            choose_bucket();
                        } else {
                            choose_bucket_ipv6();
                        }
                        bucket.apply();
                    }
                    if (hdr.ipv4.isValid()) {
                        backend.apply();
                    } else {
                        backend_ipv6.apply();
                    }
                    if (!meta.translated) {
                        refuse(DROP_NO_BACKEND);
                    }
                }
            }

            if (meta.remembered && !meta.decided && (meta.known || !meta.answer)) {
                remember_flow();
                if (meta.sought) {
                    remember_visitor();
                }
                if (!meta.answer && !meta.recalled) {
                    forget_earlier();
                }
            }
        }

        if (!meta.decided && !meta.past_hold) {
            if (hdr.ipv4.isValid()) {
                hold_to.apply();
            } else {
                hold_to_ipv6.apply();
            }
            if (meta.held) {
                send_up(HELD_TO);
            } else if (meta.decided) {
                refuse(DROP_HELD);
            } else {
                if (hdr.ipv4.isValid()) {
                    hold_from.apply();
                } else {
                    hold_from_ipv6.apply();
                }
                if (meta.held) {
                    send_up(HELD_FROM);
                } else if (meta.decided) {
                    refuse(DROP_HELD);
                }
            }
        }

        if (!meta.decided) {
            if ((hdr.ipv4.isValid() && hdr.ipv4.ttl <= 1)
                || (hdr.ipv6.isValid() && hdr.ipv6.hop_limit <= 1))
            {
                refuse(DROP_TTL);
            } else {
                if (hdr.ipv4.isValid()) {
                    route.apply();
                } else {
                    route_ipv6.apply();
                }
                if (meta.decided) {
                    refuse(DROP_NO_ROUTE);
                }
            }
        }

        if (!meta.decided) {
            if (meta.answer) {
                choose_virtual();
                if (hdr.ipv4.isValid()) {
                    virtual_address.apply();
                } else {
                    virtual_address_ipv6.apply();
                }
            } else if (meta.remembered && meta.served) {
                if (hdr.ipv4.isValid()) {
                    if (meta.destination == hdr.ipv4.source) {
                        hairpin();
                    }
                } else if (meta.destination_ipv6 == hdr.ipv6.source) {
                    hairpin_ipv6();
                }
            }
            if (meta.translated) {
                // Only the first fragment carries ports and checksum: translating it alone would
                // tear the datagram apart. Behind options neither is known.
                if (meta.fragmented) {
                    refuse(DROP_FRAGMENT);
                } else if (meta.extended) {
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
        }

        if (!meta.decided) {
            if (hdr.ipv4.isValid()) {
                count_hop();
            } else {
                count_hop_ipv6();
            }
        }
    }
}

#endif
