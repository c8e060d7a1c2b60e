// SPDX-License-Identifier: MIT OR Apache-2.0

//! Untracked connections that pass, and flows that the programs remove when the table of flows is
//! nearly full.

use limiter_common::{
    abi::{Sweep, counter, policy, untracked_kind},
    flow::Idle,
};
use limiter_tests::{
    eventually,
    program::{ACK, FIN, Programs, RST, Shape, Talk, Verdict, no_limits},
};

use crate::support::{another, boot_ns, get, limited, opened};

/// Sends a request on an untracked connection, and returns whether the request passed.
#[track_caller]
fn passes(programs: &mut Programs, talk: &mut Talk) -> bool {
    let packet = talk.client(get("/").as_bytes());
    let frame = talk.shape.wrap(&talk.ends, true, &packet);
    let ran = talk.ask(programs, get("/"));
    if ran.packet == frame {
        return true;
    }
    assert_eq!(ran.decoded().flags & RST, RST, "the server gets a reset");
    assert_eq!(ran.answer().flags & RST, RST, "the client gets a reset");
    false
}

#[test]
fn only_connections_that_may_be_older_than_the_programs_pass() {
    let later = boot_ns() + 600_000_000_000;
    for (untracked, known, older_until, wanted) in [
        (policy::PASS, false, 0, false),
        (policy::PASS, false, 1, false),
        (policy::PASS, false, later, true),
        (policy::PASS, true, 0, true),
        (policy::REJECT, true, later, false),
        (policy::REJECT, false, later, false),
        (policy::ANY, false, 0, true),
    ] {
        let mut programs = limited(no_limits());
        programs.configure(|config| config.untracked = untracked);
        programs.older_until(older_until);
        let mut talk = Talk::new(Shape::v4());
        if known {
            programs.set_untracked(talk.key(), untracked_kind::OLDER);
        }
        let passed = passes(&mut programs, &mut talk);
        assert_eq!(passed, wanted, "{untracked} {known} {older_until}");
        let count = programs.counter(counter::UNTRACKED_CONNECTIONS);
        assert_eq!(count, u64::from(wanted));
        // A connection that has been recorded as untracked still passes after the period for older
        // connections has ended.
        programs.older_until(0);
        assert_eq!(passes(&mut programs, &mut talk), wanted);
        let count = programs.counter(counter::UNTRACKED_CONNECTIONS);
        assert_eq!(count, u64::from(wanted));
    }
}

#[test]
fn acknowledgements_alone_make_an_older_connection_known() {
    // This connection has only been used for a download since the programs were loaded, so the
    // client has sent nothing but acknowledgements.
    let mut programs = limited(no_limits());
    programs.older_until(u64::MAX);
    let mut talk = Talk::new(Shape::v4());
    let ack = talk.client(b"").with_flags(ACK);
    assert_eq!(talk.run(&mut programs, true, &ack).verdict, Verdict::Pass);
    programs.older_until(0);
    assert!(passes(&mut programs, &mut talk));
}

#[test]
fn ended_connection_is_not_treated_as_older() {
    for by_reset in [false, true] {
        let (mut programs, mut talk) = opened();
        programs.older_until(u64::MAX);
        if by_reset {
            let reset = talk.server(b"").with_flags(RST);
            talk.run(&mut programs, false, &reset);
        } else {
            talk.server_acked = 1;
            let fin = talk.client(b"").with_flags(FIN | ACK);
            talk.run(&mut programs, true, &fin);
            let fin = talk.server(b"").with_flags(FIN | ACK);
            talk.run(&mut programs, false, &fin);
            talk.answered = 1;
            let ack = talk.client_at(1, b"").with_flags(ACK);
            talk.run(&mut programs, true, &ack);
        }
        assert_eq!(programs.flows(), [], "it has ended");
        // A server that uses SYN cookies could take this request for the end of a new handshake,
        // and open the connection a second time. The request must therefore not pass.
        let request = talk.client_at(0, get("/").as_bytes());
        let ran = talk.run(&mut programs, true, &request);
        assert_eq!(ran.verdict, Verdict::Redirect, "{by_reset}");
        assert_eq!(programs.counter(counter::UNTRACKED_CONNECTIONS), 0);
    }
}

#[test]
fn no_request_passes_on_a_connection_opened_after_the_half_open_time() {
    for deferred in [false, true] {
        let mut programs = limited(no_limits());
        if deferred {
            programs.configure(|config| config.handshake = policy::DEFER);
        }
        let mut talk = Talk::new(Shape::v4());
        talk.begin(&mut programs);
        if deferred {
            let ack = talk.client(b"").with_flags(ACK);
            assert_eq!(talk.run(&mut programs, true, &ack).verdict, Verdict::Drop);
        }
        let mut idle_ns = [u64::MAX; Idle::COUNT];
        idle_ns[Idle::Handshake as usize] = 0;
        // The clock of the sweep has the resolution of a tick.
        eventually("the half-open time is over", || {
            programs.sweep(idle_ns);
            programs.flows().is_empty()
        });
        // A server that uses SYN cookies keeps no state of the connection, and opens it as soon as
        // it gets the acknowledgement. It gets no request on this connection.
        let ack = talk.client(b"").with_flags(ACK);
        talk.run(&mut programs, true, &ack);
        assert!(!passes(&mut programs, &mut talk), "{deferred}");
        assert_eq!(programs.counter(counter::UNTRACKED_CONNECTIONS), 0);
    }
}

#[test]
fn reset_from_either_side_forgets_an_untracked_connection() {
    for to_server in [true, false] {
        let mut programs = limited(no_limits());
        let mut talk = Talk::new(Shape::v4());
        programs.set_untracked(talk.key(), untracked_kind::OLDER);
        assert!(passes(&mut programs, &mut talk));
        let segment = if to_server {
            talk.client(b"")
        } else {
            talk.server(b"")
        };
        let reset = segment.with_flags(RST);
        assert_eq!(
            talk.run(&mut programs, to_server, &reset).verdict,
            Verdict::Pass
        );
        assert!(!passes(&mut programs, &mut talk), "{to_server}");
    }
}

#[test]
fn sweep_forgets_idle_untracked_connections() {
    let mut programs = limited(no_limits());
    let mut talks: Vec<Talk> = (0..2)
        .map(|number| {
            let mut talk = Talk::new(Shape::v4());
            talk.ends.client_port += number;
            programs.set_untracked(talk.key(), untracked_kind::OLDER);
            talk
        })
        .collect();
    let fin = talks[1].server(b"").with_flags(FIN | ACK);
    talks[1].run(&mut programs, false, &fin);
    let mut idle_ns = [u64::MAX; Idle::COUNT];
    assert_eq!(programs.sweep(idle_ns).untracked, 2);
    idle_ns[Idle::Closing as usize] = 1_000_000;
    assert_eq!(programs.sweep(idle_ns).untracked, 1);
    idle_ns[Idle::Open as usize] = 1_000_000;
    assert_eq!(programs.sweep(idle_ns).untracked, 0);
}

#[test]
fn client_with_its_share_of_a_full_table_opens_no_more_flows() {
    let mut programs = limited(no_limits());
    let mut talks: Vec<Talk> = (0..3)
        .map(|number| another(&mut programs, 41_000 + number))
        .collect();
    let census = Sweep {
        idle_ns: [u64::MAX; Idle::COUNT],
        census: 1,
        ..Sweep::default()
    };
    programs.sweep_with(census);
    let address = talks[0].key().client;
    assert_eq!(programs.client_flows(&address), Some(3));
    programs.set_client_share(3);
    let mut more = Talk::new(Shape::v4());
    more.ends.client_port = 41_003;
    let (syn, syn_ack) = (more.syn(), more.syn_ack());
    more.run(&mut programs, true, &syn);
    let ran = more.run(&mut programs, false, &syn_ack);
    assert_eq!(ran.decoded().flags & RST, RST, "refused");
    assert_eq!(programs.counter(counter::OVER_SHARE), 1);
    // New connections of another client are followed, and connections that are already open
    // continue.
    let mut other = Talk::new(Shape::v4());
    other.ends.client = std::net::Ipv4Addr::new(8, 0, 0, 99).into();
    let mut other = other.opened(&mut programs);
    other.asks(&mut programs, get("/"));
    talks[0].asks(&mut programs, get("/"));
    // The client now has more flows than its share, so a sweep removes one that has nothing in
    // flight.
    programs.set_client_share(2);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let swept = programs.sweep([u64::MAX; Idle::COUNT]);
    assert_eq!((swept.over_share, swept.removed), (1, 1));
    assert!(
        programs.flow(&talks[0].key()).is_some(),
        "a request is in flight"
    );
    assert!(programs.flow(&other.key()).is_some());
}
