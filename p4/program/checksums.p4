// SPDX-License-Identifier: Apache-2.0
//
// Checksums of packets the program changed. What only passes through, or goes up to the client,
// keeps the checksums it came with, right or wrong: its receiver is the one to judge them.

#ifndef FLOWFERRY_CHECKSUMS
#define FLOWFERRY_CHECKSUMS

#include "headers.p4"

// The frame check sequence has covered the frame on its way here; end to end checks are the
// endpoints' business.
control checksum_verification(inout headers_t hdr, inout metadata_t meta)
{
    apply { }
}

control checksum_update(inout headers_t hdr, inout metadata_t meta)
{
    apply {
        update_checksum(
            meta.forwarded && hdr.ipv4.isValid(),
            {
                hdr.ipv4.version,
                hdr.ipv4.header_words,
                hdr.ipv4.traffic_class,
                hdr.ipv4.total_length,
                hdr.ipv4.identification,
                hdr.ipv4.reserved,
                hdr.ipv4.dont_fragment,
                hdr.ipv4.more_fragments,
                hdr.ipv4.fragment_offset,
                hdr.ipv4.ttl,
                hdr.ipv4.protocol,
                hdr.ipv4.source,
                hdr.ipv4.destination
            },
            hdr.ipv4.checksum,
            HashAlgorithm.csum16);

        update_checksum_with_payload(
            meta.rewritten && hdr.ipv4.isValid() && hdr.tcp.isValid(),
            {
                hdr.ipv4.source,
                hdr.ipv4.destination,
                8w0,
                hdr.ipv4.protocol,
                meta.tcp_length,
                hdr.tcp.source_port,
                hdr.tcp.destination_port,
                hdr.tcp.sequence,
                hdr.tcp.acknowledgement,
                hdr.tcp.header_words,
                hdr.tcp.reserved,
                hdr.tcp.flags,
                hdr.tcp.window,
                hdr.tcp.urgent
            },
            hdr.tcp.checksum,
            HashAlgorithm.csum16);

        // A UDP checksum of 0 says that there is none, and there is none afterwards. (A sum that
        // happens to be 0 should be sent as 0xffff; v1model cannot, and the receiver of such a
        // packet in 65536 takes it unchecked with IPv4, and drops it with IPv6.)
        update_checksum_with_payload(
            meta.rewritten && hdr.ipv4.isValid() && hdr.udp.isValid() && hdr.udp.checksum != 0,
            {
                hdr.ipv4.source,
                hdr.ipv4.destination,
                8w0,
                hdr.ipv4.protocol,
                hdr.udp.length,
                hdr.udp.source_port,
                hdr.udp.destination_port,
                hdr.udp.length
            },
            hdr.udp.checksum,
            HashAlgorithm.csum16);

        update_checksum_with_payload(
            meta.rewritten && hdr.ipv6.isValid() && hdr.tcp.isValid(),
            {
                hdr.ipv6.source,
                hdr.ipv6.destination,
                16w0,
                meta.tcp_length,
                24w0,
                hdr.ipv6.next_header,
                hdr.tcp.source_port,
                hdr.tcp.destination_port,
                hdr.tcp.sequence,
                hdr.tcp.acknowledgement,
                hdr.tcp.header_words,
                hdr.tcp.reserved,
                hdr.tcp.flags,
                hdr.tcp.window,
                hdr.tcp.urgent
            },
            hdr.tcp.checksum,
            HashAlgorithm.csum16);

        update_checksum_with_payload(
            meta.rewritten && hdr.ipv6.isValid() && hdr.udp.isValid() && hdr.udp.checksum != 0,
            {
                hdr.ipv6.source,
                hdr.ipv6.destination,
                16w0,
                hdr.udp.length,
                24w0,
                hdr.ipv6.next_header,
                hdr.udp.source_port,
                hdr.udp.destination_port,
                hdr.udp.length
            },
            hdr.udp.checksum,
            HashAlgorithm.csum16);

        update_checksum_with_payload(
            meta.rewritten && hdr.icmpv6.isValid(),
            {
                hdr.ipv6.source,
                hdr.ipv6.destination,
                16w0,
                hdr.ipv6.payload_length,
                24w0,
                hdr.ipv6.next_header,
                hdr.icmpv6.type,
                hdr.icmpv6.code
            },
            hdr.icmpv6.checksum,
            HashAlgorithm.csum16);

        // An advertisement is all headers, with the option or without it.
        update_checksum(
            meta.advertised && hdr.link_address.isValid(),
            {
                hdr.ipv6.source,
                hdr.ipv6.destination,
                16w0,
                hdr.ipv6.payload_length,
                24w0,
                hdr.ipv6.next_header,
                hdr.neighbor.type,
                hdr.neighbor.code,
                hdr.neighbor.flags,
                hdr.neighbor.target,
                hdr.link_address.type,
                hdr.link_address.length,
                hdr.link_address.mac
            },
            hdr.neighbor.checksum,
            HashAlgorithm.csum16);

        update_checksum(
            meta.advertised && !hdr.link_address.isValid(),
            {
                hdr.ipv6.source,
                hdr.ipv6.destination,
                16w0,
                hdr.ipv6.payload_length,
                24w0,
                hdr.ipv6.next_header,
                hdr.neighbor.type,
                hdr.neighbor.code,
                hdr.neighbor.flags,
                hdr.neighbor.target
            },
            hdr.neighbor.checksum,
            HashAlgorithm.csum16);
    }
}

#endif
