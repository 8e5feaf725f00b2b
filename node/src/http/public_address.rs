//! Which addresses belong to the public Internet.
//!
//! A server that fetches what a caller names must not become the caller's way to what only the server
//! reaches: its own ports, its network, its cloud's metadata service. The blocks are those of the IANA
//! special-purpose registries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Blocks of IPv4 that are not public: address, prefix length, name.
const V4: [([u8; 4], u32, &str); 16] = [
    ([0, 0, 0, 0], 8, "this network, 0.0.0.0/8"),
    ([10, 0, 0, 0], 8, "private, 10.0.0.0/8"),
    ([100, 64, 0, 0], 10, "carrier-grade NAT, 100.64.0.0/10"),
    ([127, 0, 0, 0], 8, "loopback, 127.0.0.0/8"),
    // One address of a public block, which Azure routes to the host of each of its machines.
    ([168, 63, 129, 16], 32, "cloud platform, 168.63.129.16"),
    (
        [169, 254, 0, 0],
        16,
        "link-local and cloud metadata, 169.254.0.0/16",
    ),
    ([172, 16, 0, 0], 12, "private, 172.16.0.0/12"),
    ([192, 0, 0, 0], 24, "protocol assignments, 192.0.0.0/24"),
    ([192, 0, 2, 0], 24, "documentation, 192.0.2.0/24"),
    ([192, 88, 99, 0], 24, "6to4 relay, 192.88.99.0/24"),
    ([192, 168, 0, 0], 16, "private, 192.168.0.0/16"),
    ([198, 18, 0, 0], 15, "benchmarks, 198.18.0.0/15"),
    ([198, 51, 100, 0], 24, "documentation, 198.51.100.0/24"),
    ([203, 0, 113, 0], 24, "documentation, 203.0.113.0/24"),
    ([224, 0, 0, 0], 4, "multicast, 224.0.0.0/4"),
    ([240, 0, 0, 0], 4, "reserved and broadcast, 240.0.0.0/4"),
];

/// Blocks of IPv6 that are not public. Those outside 2000::/3 are here for the sake of the message:
/// nothing outside it is public.
const V6: [([u16; 8], u32, &str); 15] = [
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback, ::1"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified, ::"),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "NAT64, 64:ff9b::/96"),
    (
        [0x64, 0xff9b, 1, 0, 0, 0, 0, 0],
        48,
        "local NAT64, 64:ff9b:1::/48",
    ),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard, 100::/64"),
    (
        [0x5f00, 0, 0, 0, 0, 0, 0, 0],
        16,
        "segment routing, 5f00::/16",
    ),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "private, fc00::/7"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local, fe80::/10"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local, fec0::/10"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast, ff00::/8"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo, 2001::/32"),
    (
        [0x2001, 0, 0, 0, 0, 0, 0, 0],
        23,
        "protocol assignments, 2001::/23",
    ),
    (
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0],
        32,
        "documentation, 2001:db8::/32",
    ),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4, 2002::/16"),
    (
        [0x3fff, 0, 0, 0, 0, 0, 0, 0],
        20,
        "documentation, 3fff::/20",
    ),
];

/// The block for which an address is not public; None: it is.
pub(super) fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => not_public_v6(address),
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    let found = V4.iter().find(|(block, length, _)| {
        let differs = address.to_bits() ^ Ipv4Addr::from(*block).to_bits();
        differs >> (32 - length) == 0
    });
    found.map(|(_, _, name)| *name)
}

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    let found = V6.iter().find(|(block, length, _)| {
        let differs = address.to_bits() ^ Ipv6Addr::from(*block).to_bits();
        differs >> (128 - length) == 0
    });
    if let Some((_, _, name)) = found {
        return Some(name);
    }
    // `::a.b.c.d` and `::ffff:a.b.c.d` reach what the IPv4 address inside reaches.
    if let Some(inside) = address.to_ipv4() {
        return not_public_v4(inside);
    }
    (address.segments()[0] >> 13 != 1).then_some("not in use, outside 2000::/3")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_block_ends_where_it_ends() {
        let table = [
            ("0.0.0.0", false),
            ("0.255.255.255", false),
            ("1.0.0.0", true),
            ("9.255.255.255", true),
            ("10.0.0.0", false),
            ("10.255.255.255", false),
            ("11.0.0.0", true),
            ("100.63.255.255", true),
            ("100.64.0.0", false),
            ("100.100.100.200", false),
            ("100.127.255.255", false),
            ("100.128.0.0", true),
            ("126.255.255.255", true),
            ("127.0.0.1", false),
            ("127.255.255.255", false),
            ("128.0.0.0", true),
            ("168.63.129.15", true),
            ("168.63.129.16", false),
            ("168.63.129.17", true),
            ("169.253.255.255", true),
            ("169.254.0.0", false),
            ("169.254.169.254", false),
            ("169.255.0.0", true),
            ("172.15.255.255", true),
            ("172.16.0.0", false),
            ("172.31.255.255", false),
            ("172.32.0.0", true),
            ("191.255.255.255", true),
            ("192.0.0.0", false),
            ("192.0.0.255", false),
            ("192.0.1.0", true),
            ("192.0.2.1", false),
            ("192.0.3.0", true),
            ("192.88.99.1", false),
            ("192.167.255.255", true),
            ("192.168.0.0", false),
            ("192.168.255.255", false),
            ("192.169.0.0", true),
            ("198.17.255.255", true),
            ("198.18.0.0", false),
            ("198.19.255.255", false),
            ("198.20.0.0", true),
            ("198.51.100.7", false),
            ("203.0.113.7", false),
            ("223.255.255.255", true),
            ("224.0.0.0", false),
            ("239.255.255.255", false),
            ("240.0.0.0", false),
            ("255.255.255.254", false),
            ("255.255.255.255", false),
            ("8.8.8.8", true),
            ("::", false),
            ("::1", false),
            ("::2", false),
            ("::127.0.0.1", false),
            ("::10.0.0.1", false),
            ("::8.8.8.8", true),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::ffff:8.8.8.8", true),
            ("::ffff:0:8.8.8.8", false),
            ("64:ff9b::808:808", false),
            ("64:ff9b::7f00:1", false),
            ("64:ff9b:1::1", false),
            ("64:ff9b:2::1", false),
            ("100::1", false),
            ("100:0:0:1::1", false),
            ("1fff:ffff::1", false),
            ("2000::1", true),
            ("2001::1", false),
            ("2001:0:7f00:1::", false),
            ("2001:1ff::1", false),
            ("2001:200::1", true),
            ("2001:db7:ffff::1", true),
            ("2001:db8::1", false),
            ("2001:db9::1", true),
            ("2001:4860:4860::8888", true),
            ("2002::1", false),
            ("2002:7f00:1::1", false),
            ("2003::1", true),
            ("2606:4700:4700::1111", true),
            ("3ffe:ffff::1", true),
            ("3fff::1", false),
            ("3fff:fff:ffff::1", false),
            ("3fff:1000::1", true),
            ("4000::1", false),
            ("5f00::1", false),
            ("fbff::1", false),
            ("fc00::1", false),
            ("fd00:ec2::254", false),
            ("fe00::1", false),
            ("fe80::1", false),
            ("febf::1", false),
            ("fec0::1", false),
            ("feff::1", false),
            ("ff02::1", false),
        ];
        for (address, public) in table {
            let refused = not_public(address.parse().unwrap());
            assert_eq!(refused.is_none(), public, "{address}: {refused:?}");
        }
    }

    #[test]
    fn each_block_is_found_by_its_own_name() {
        for (block, _, name) in V4 {
            assert_eq!(not_public(IpAddr::from(block)), Some(name));
        }
        for (block, length, name) in V6 {
            // 2001:: is Teredo's before it is the wider block's.
            let mut block = block;
            if length == 23 {
                block[1] = 2;
            }
            assert_eq!(not_public(IpAddr::from(block)), Some(name));
        }
    }
}
